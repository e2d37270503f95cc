"""MODEL as FILE.py:NAME: a definition in a user's Python file instead of a model in files.

Deliberately does not know the framework, nor how a Python file is run: user_file.py.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaxen.cli.user_file import run_user_file, user_errors

if TYPE_CHECKING:
    from flaxen.weights.definition import Definition

_PLACE = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)")
_NEAR_PLACE = re.compile(r"(?P<file>.+\.py)(:.*)?")
_WANTED = "write a function without arguments that returns a flaxen.Definition"


def is_place(model: str) -> bool:
    """Whether MODEL is FILE.py:NAME."""
    return _PLACE.fullmatch(model) is not None


def find_definition(model: str, checkpoint: Path | None = None) -> Definition | None:
    """Runs the file and calls the function in it; None if the model is not FILE.py:NAME.

    Args:
      model: as the user gave it.
      checkpoint: a directory written by `flaxen train`, whose parameters replace the definition's
          own.

    Raises:
      ValueError: the file or function does not exist, the function returns something else, the
          user's code raised an error, or a checkpoint was given for a model in files.
    """
    place = _PLACE.fullmatch(model)
    if place is None:
        _refuse_a_file_without_name(model)
        if checkpoint is not None:
            raise ValueError(
                f"--checkpoint is for definitions, FILE.py:NAME, and {model!r} is a model in "
                f"files: what `flaxen train` wrote for it is named as MODEL itself"
            )
        return None
    path, name = Path(os.path.expanduser(place["file"])), place["name"]
    if not path.is_file():
        raise ValueError(f"{path} does not exist: MODEL as FILE.py:NAME names a file to run")
    with run_user_file(path) as module:
        definition = _made(module, path, name)
    if checkpoint is None:
        return definition
    from flaxen.weights.definition_files import load_trained

    return load_trained(checkpoint, definition)


def _made(module: Any, path: Path, name: str) -> Definition:
    from flaxen.weights.definition import Definition

    make = getattr(module, name, None)
    if isinstance(make, Definition):
        return make
    if not callable(make):
        raise ValueError(f"{path} has no function {name}: {_advice(path, name)}")
    needed = [
        each.name
        for each in inspect.signature(make).parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if needed:
        raise ValueError(
            f"{name} in {path} has arguments without a default ({', '.join(needed)}), which nobody "
            f"can give it here: {_WANTED}"
        )
    with user_errors(path):
        definition = make()
    if not isinstance(definition, Definition):
        raise ValueError(
            f"{name} in {path} returned a {type(definition).__name__}: it must return a "
            "flaxen.Definition(model=..., params=..., tokenizer=...)"
        )
    return definition


def _refuse_a_file_without_name(model: str) -> None:
    """Refuses a Python file without the name of a function in it."""
    near = _NEAR_PLACE.fullmatch(model)
    path = Path(os.path.expanduser(near["file"])) if near else None
    if path is None or not path.is_file():
        return
    raise ValueError(
        f"{model} is a file of Python, and MODEL as FILE.py:NAME also names the function in it "
        f"that makes the definition: {_advice(path, None)}"
    )


def _advice(path: Path, wanted: str | None) -> str:
    """Suggests a name if it is missing, or if the file does not have it."""
    names = likely_names(path)
    if not names:
        return _WANTED
    near = difflib.get_close_matches(wanted or "", names, n=1)
    return "give " + " or ".join(f"{path}:{name}" for name in near or names)


def likely_names(path: Path) -> list[str]:
    """The functions and variables of a file that may be definitions, found without running it.

    These are functions without required arguments whose return value names `Definition`, and
    variables to which one is assigned; if there are none, all functions without required arguments.
    """
    try:
        body = ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError):
        return []
    functions = [each for each in body if isinstance(each, ast.FunctionDef)]
    callable_ones = [
        each.name
        for each in functions
        if len(each.args.posonlyargs + each.args.args) == len(each.args.defaults)
        and all(each.args.kw_defaults)
        and not each.name.startswith("_")
    ]
    found = [each.name for each in functions if each.name in callable_ones and _makes_one(each)]
    for each in body:
        if isinstance(each, ast.Assign) and _makes_one(each.value):
            found += [target.id for target in each.targets if isinstance(target, ast.Name)]
    return found or callable_ones


def _makes_one(node: ast.AST) -> bool:
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    names |= {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
    texts = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
    return not {"Definition", "flaxen.Definition"}.isdisjoint(names | texts)
