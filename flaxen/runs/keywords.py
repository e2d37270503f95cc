"""The keyword arguments of `flaxen.train`: settings of a run, most of them without their level.

Deliberately does not know what a setting means: flaxen.training.config.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from flaxen.data.config import DataConfig
from flaxen.training.config import TrainConfig
from flaxen.training.settings import set_value

_LEVELS = ("optimizer", "schedule", "lora", "dpo", "checkpoint")  # given as a dict each
_OWN = ("model", "data", "output_dir")  # arguments of their own, by other names or types
# Settings that are often given, by their names in YAML.
_COMMON = {
    "learning_rate": "optimizer.learning_rate",
    "rank": "lora.rank",
    **{
        field.name: f"data.{field.name}"
        for field in dataclasses.fields(DataConfig)
        if field.name not in ("files", "seed")
    },
}
_WHOLE = tuple(f.name for f in dataclasses.fields(TrainConfig) if f.name not in _OWN)


def settings_of(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Makes nested settings, as a YAML file holds them, of keyword arguments.

    Args:
      keywords: fields of TrainConfig, those of DataConfig, `learning_rate` and `rank`. None leaves
          a setting at its default. `seed` is also the seed of the data's order.

    Raises:
      TypeError: there is no such argument.
    """
    found: dict[str, Any] = {}
    given = {name: value for name, value in keywords.items() if value is not None}
    for name in sorted(given, key=_WHOLE.__contains__, reverse=True):  # whole levels come first
        value = given[name]
        if name not in _WHOLE and name not in _COMMON:
            raise TypeError(_unknown(name))
        if name in _LEVELS:
            value = _level(value)
        set_value(found, _COMMON.get(name, name), value)
        if name == "seed":
            set_value(found, "data.seed", value)
    return found


def _level(value: Any) -> Any:
    """A level's settings as a dict of their own; what is none is left to the reader of settings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return dict(value) if isinstance(value, Mapping) else value


def _unknown(name: str) -> str:
    known = [*_WHOLE, *_COMMON]
    for level in _LEVELS:
        kind: Any = TrainConfig.__dataclass_fields__[level].default_factory
        if name in (field.name for field in dataclasses.fields(kind)):
            return (
                f"flaxen.train has no argument {name!r}: it is a setting of {level}, given as "
                f"{level}={{{name!r}: ...}}"
            )
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    return f"flaxen.train has no argument {name!r}: {hint}"
