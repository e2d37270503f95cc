"""Reads other weights of a model that is already served, from files that are opened anew.

Deliberately does not know: engines, who wrote the files.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

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
      model: the path of the files, which are opened anew.

    Raises:
      ValueError: they are not there, are damaged, or are another model's.
      OSError: they can't be read.
    """
    if not Path(model).exists():
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
        for field in fields(served.config):
            old, new = (getattr(each.config, field.name) for each in (served, found))
            if old != new:
                raise ValueError(
                    f"{found.name} is not the model that is served: the {field.name} of its "
                    f"config.json is {new}, and the served one's {old}"
                )


def _shapes(model: Model) -> dict[str, list[int]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(model.param_specs, is_leaf=is_spec)
    return {jax.tree_util.keystr(path): list(spec.shape) for path, spec in leaves if is_spec(spec)}
