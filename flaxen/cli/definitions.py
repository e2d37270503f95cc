"""MODEL as FILE.py:NAME: a definition of the user's own, in place of a model in files.

Deliberately does not know what it is defined in.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flaxen.weights.definition import Definition

_PLACE = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)")


def is_place(model: str) -> bool:
    """Whether MODEL is FILE.py:NAME."""
    return _PLACE.fullmatch(model) is not None


def find_definition(model: str) -> Definition | None:
    """Runs the file and calls the function in it; None where the model is named otherwise.

    Raises:
      ValueError: there is no such file or function, or it gives something else.
    """
    place = _PLACE.fullmatch(model)
    if place is None:
        return None
    path, name = Path(place["file"]).expanduser(), place["name"]
    if not path.is_file():
        raise ValueError(f"{path} does not exist: MODEL as FILE.py:NAME names a file to run")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    make = getattr(module, name, None)
    if not callable(make):
        raise ValueError(
            f"{path} has no function {name}: write one that returns a flaxen.Definition"
        )
    from flaxen.weights.definition import Definition

    definition = make()
    if not isinstance(definition, Definition):
        raise ValueError(
            f"{name} in {path} returned a {type(definition).__name__}: it must return a "
            "flaxen.Definition(model=..., params=..., tokenizer=...)"
        )
    return definition
