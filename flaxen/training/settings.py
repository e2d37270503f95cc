"""Settings of a training run, as YAML or flags give them, read into a TrainConfig by pydantic.

Deliberately does not know: what a setting means, or which of its values are allowed (config.py).
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, to_json

from flaxen.sharding.shape import MeshShape, parse_mesh
from flaxen.training.config import TrainConfig

_TRAIN_CONFIG = TypeAdapter(TrainConfig)
# What to give where a setting without a default is missing.
_DATA_HINT = ": give --data FILE.jsonl, or `data: {files: [FILE.jsonl]}` in a file of settings"
_MISSING_HINTS = {
    "model": ": name the MODEL to train, such as smollm2-135m, or write `model: smollm2-135m` in a "
    "file of settings",
    "data": _DATA_HINT,
    "data.files": _DATA_HINT,
}


# pydantic's names of wrong types, and what each would have to be.
_WANTED = {
    "string_type": "a text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "path_type": "a path",
}


class _Loader(yaml.SafeLoader):
    """YAML as in version 1.2, where 1e-4 is a number and 2026-11-28 a text.

    PyYAML reads 1.1, where the first is a text and the second a date.
    """


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str) -> Any:
    """What a text of YAML says: a file's settings, or the value of one.

    Raises:
      ValueError: it is no YAML.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"no YAML: {error}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings of a file, unchecked.

    Raises:
      ValueError: it is no YAML, or no mapping of settings.
      OSError: it can't be read.
    """
    try:
        found = parse_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no YAML: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path} is {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold settings as name: value, as in `model: smollm2-135m`")
    return found


def set_value(settings: dict[str, Any], name: str, value: Any) -> None:
    """Sets one of nested settings, in place.

    Args:
      settings: what read_yaml returns.
      name: with a dot between the levels, as optimizer.learning_rate.
      value: what parse_yaml returns.

    Raises:
      ValueError: a level on the way is a value.
    """
    *levels, last = name.split(".")
    for level in levels:
        inner = settings.setdefault(level, {})
        if not isinstance(inner, dict):
            raise ValueError(f"{name} can't be set: {level} is the value {inner!r}")
        settings = inner
    settings[last] = value


def take_mesh(settings: Mapping[str, Any]) -> tuple[dict[str, Any], MeshShape]:
    """Takes the setting `mesh` out: where a run is computed is no part of what it is, so it may be
    resumed on another mesh.

    Args:
      settings: the mesh is a text, fsdp=4,tensor=2, or the same as a mapping.

    Returns:
      The other settings, and the mesh: one device if there was none.

    Raises:
      ValueError: it is no mesh.
    """
    rest = dict(settings)
    given = rest.pop("mesh", None)
    if isinstance(given, Mapping):
        given = ",".join(f"{name}={size}" for name, size in given.items())
    if not isinstance(given, str | None):
        raise ValueError(
            f"mesh must be a text such as fsdp=4,tensor=2, or a mapping such as {{fsdp: 4}}, got "
            f"{given!r}"
        )
    return rest, parse_mesh(given or "")


def make_config(settings: Mapping[str, Any]) -> TrainConfig:
    """The run that settings describe. With num_steps, data.epochs is endless if it is not given.

    Raises:
      ValueError: an unknown setting, a value of another type, or one that is not allowed; the
        message names it.
    """
    settings = dict(settings)
    data = settings.get("data")
    if settings.get("num_steps") is not None and isinstance(data, dict):
        settings["data"] = {"epochs": None, **data}
    try:
        # Through JSON: strict pydantic takes a mapping for a dataclass from there alone.
        return _TRAIN_CONFIG.validate_json(to_json(settings), strict=True, extra="forbid")
    except ValidationError as error:
        problems = error.errors(include_url=False)
    # A misspelt name is also a missing one: it is what the user has to see.
    unknown = [each for each in problems if each["type"] == "unexpected_keyword_argument"]
    raise ValueError(_describe((unknown or problems)[0]))


def _describe(problem: ErrorDetails) -> str:
    """The message of one of pydantic's errors."""
    *levels, last = problem["loc"] or ("",)
    where = ".".join(str(part) for part in problem["loc"] if isinstance(part, str))
    found, kind = problem["input"], problem["type"]
    if kind == "unexpected_keyword_argument":
        known = _names_at([str(level) for level in levels])
        near = difflib.get_close_matches(str(last), known, n=1)
        prefix = where.removesuffix(str(last))
        hint = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(known)}"
        return f"there is no setting {where}: {hint}"
    if kind == "missing":
        return f"the setting {where} is missing{_MISSING_HINTS.get(where, '')}"
    if kind == "dataclass_type":
        return f"{where} must hold settings as name: value, got {found!r}"
    if kind == "literal_error":
        words = problem["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
        return f"{where} {found!r} is not supported: use one of {words}"
    if kind == "value_error":  # of a dataclass's own checks
        error = problem["ctx"]["error"]
        return f"{where}: {error}" if where else str(error)
    wanted = _WANTED.get(kind)
    return f"{where} must be {wanted}, got {found!r}" if wanted else f"{where}: {problem['msg']}"


def _names_at(levels: list[str]) -> list[str]:
    """The settings there are at a place."""
    kind: Any = TrainConfig
    for level in levels:
        kind = typing.get_type_hints(kind)[level]
    return [*typing.get_type_hints(kind), *(() if levels else ("mesh",))]
