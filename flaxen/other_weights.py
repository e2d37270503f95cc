"""Reads other weights of a model that is already served, from files that are opened anew.

Deliberately does not know: engines, who wrote the files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import jax

from flaxen.definitions.opening import AnySource
from flaxen.models.model import Model, Params
from flaxen.models.params import is_spec
from flaxen.prepared import Prepared, open_named, placed
from flaxen.weights.checkpoint import Checkpoint


def read_weights(prepared: Prepared, model: str) -> list[Params]:
    """Reads other weights of a prepared model: those of each data replica, as `load` does.

    Args:
      prepared: the model as it was prepared.
      model: the path of the files, which are opened anew; or what the model itself was named as.

    Raises:
      ValueError: they are not there, are damaged, or are another model's.
      OSError: they can't be read.
    """
    if model != prepared.args.model and not Path(model).exists():
        raise ValueError(f"there is no file or directory {model!r} on the server's machine")
    found, form = open_named(replace(prepared.args, model=model)).source, prepared.form
    _check_same_model(prepared.checkpoint, found)
    params = found.load_params(
        form.dtype, backend=form.backend, quantization=form.quantization, placement=form.placement
    )
    return placed(prepared, params)


def _check_same_model(served: AnySource, found: AnySource) -> None:
    """Raises ValueError with the first parameter, or field of the configuration, that differs."""
    have, given = (_shapes(each.model) for each in (served, found))
    for name in (*have, *given):
        if have.get(name) != given.get(name):
            raise ValueError(
                f"{found.name} is not the model that is served: its {name} has the shape "
                f"{given.get(name, 'of none')}, and the served one's {have.get(name, 'is none')}"
            )
    if isinstance(served, Checkpoint) and isinstance(found, Checkpoint):
        for path, old, new in _differences("", served.config, found.config):
            raise ValueError(
                f"{found.name} is not the model that is served: its configuration has {new!r} as "
                f"{path.removeprefix('.')}, and the served one's has {old!r}"
            )


def _differences(path: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """(the path in a configuration, the value of one, the other's) where two differ."""
    if type(old) is type(new) and is_dataclass(old):
        for each in fields(old):
            values = (getattr(config, each.name) for config in (old, new))
            yield from _differences(f"{path}.{each.name}", *values)
    elif isinstance(old, tuple) and isinstance(new, tuple) and len(old) == len(new):
        for index, pair in enumerate(zip(old, new, strict=True)):
            yield from _differences(f"{path}[{index}]", *pair)
    elif old != new:
        yield path, old, new


def _shapes(model: Model) -> dict[str, list[int]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(model.param_specs, is_leaf=is_spec)
    return {jax.tree_util.keystr(path): list(spec.shape) for path, spec in leaves if is_spec(spec)}
