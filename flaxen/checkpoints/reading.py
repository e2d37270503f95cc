"""Reads the checkpoints of a training run; changes nothing in their directory.

Deliberately does not know the meaning of the tree, or training.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flaxen.checkpoints.saved_arrays import ARRAYS, INDEX, SavedArray, SavedArrays, damaged
from flaxen.sharding.parts import assemble, own_boxes

PLAIN = (bool, int, float, str)  # types of leaves that are stored in JSON
_STEP = re.compile(r"\d+")

Tree = Any
Json = Any


class Restored(NamedTuple):
    """A saved tree, its number of steps, and the extra value saved with it."""

    step: int
    tree: Tree
    extra: Json


def steps_in(directory: Path) -> list[int]:
    """The steps of the complete checkpoints in a directory, in order; empty if there is no
    directory.
    """
    if not directory.is_dir():
        return []
    return sorted(
        int(entry.name)
        for entry in directory.iterdir()
        if _STEP.fullmatch(entry.name) and (entry / INDEX).is_file()
    )


def read_extra(directory: Path, step: int) -> Json:
    """Reads the extra value of a complete checkpoint, without reading arrays.

    Raises:
      ValueError: the checkpoint is damaged.
    """
    return _read_index(directory.absolute() / str(step))["extra"]


def _read_index(path: Path) -> dict[str, Json]:
    try:
        index: dict[str, Json] = json.loads((path / INDEX).read_bytes())
    except ValueError as error:
        raise damaged(path / INDEX, error) from None
    return index


def restore(directory: Path, template: Tree, step: int | None = None) -> Restored:
    """Restores a tree in the form of a template.

    Args:
      directory: the directory of checkpoints.
      template: a tree with the same structure, shapes and dtypes; leaves may be
          jax.ShapeDtypeStruct. The result has JAX arrays on the template's devices, or NumPy arrays
          where the template has them. The template's mesh may be another than the saved one:
          of each array only the parts on this process's devices are read.
      step: the checkpoint's step; None is the last complete one.

    Raises:
      ValueError: there is no such checkpoint, or it is damaged; or a leaf is missing, is not in the
          template, or has another shape or dtype there; the message names it.
    """
    steps = steps_in(directory)
    if not steps:
        raise ValueError(f"{directory} has no complete checkpoint: start without resuming")
    step = steps[-1] if step is None else step
    if step not in steps:
        raise ValueError(
            f"{directory} has no checkpoint of step {step}: it has {', '.join(map(str, steps))}"
        )
    path = directory.absolute() / str(step)
    index = _read_index(path)
    leaves = index["leaves"]
    flat, structure = jax.tree.flatten_with_path(template)
    named = {jax.tree_util.keystr(place): leaf for place, leaf in flat}
    try:
        _check_fits(leaves, named)
    except ValueError as error:
        raise ValueError(f"{path}: {error}. Was it saved with another configuration?") from None
    with SavedArrays(path, index.get("files", [ARRAYS])) as arrays:
        # Each array is read by itself, so that the host never holds two copies of all.
        found = [
            leaves[name]["value"]
            if "value" in leaves[name]
            else _as(leaf, leaves[name], arrays.of(name, leaves[name]))
            for name, leaf in named.items()
        ]
    tree = jax.tree.unflatten(structure, found)
    return Restored(step, tree, index["extra"])


def _check_fits(leaves: dict[str, Json], template: dict[str, Any]) -> None:
    for name, leaf in template.items():
        if name not in leaves:
            raise ValueError(f"the leaf {name} is missing, and is needed")
        saved = leaves[name]
        if type(leaf) in PLAIN:
            wanted: Json = {"value": type(leaf).__name__}
            found = {"value": type(saved["value"]).__name__} if "value" in saved else saved
        else:
            wanted = {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
            found = {part: saved[part] for part in saved if part not in ("key_impl", "parts")}
        if found != wanted:
            raise ValueError(f"the leaf {name} has {_said(found)}, and {_said(wanted)} is needed")
    if leaves.keys() - template.keys():
        raise ValueError(f"the leaf {min(leaves.keys() - template.keys())} has no place")


def _said(leaf: dict[str, Json]) -> str:
    if "dtype" in leaf:
        return f"{leaf['dtype']}{leaf['shape']}"
    kind = leaf["value"] if isinstance(leaf["value"], str) else type(leaf["value"]).__name__
    return f"a Python {kind}"


def _as(template: Any, saved: dict[str, Json], array: SavedArray) -> Any:
    """Reads an array in the template's form, and onto its devices."""
    if isinstance(template, np.ndarray | np.generic):
        whole = array.read(array.whole)
        return whole if isinstance(template, np.ndarray) else whole[()]
    sharding = template.sharding
    if "key_impl" in saved:  # keys are small: each device gets all of them
        is_on_mesh = isinstance(sharding, NamedSharding)
        where = NamedSharding(sharding.mesh, P()) if is_on_mesh else None
        data = _put(array, where, np.dtype(np.uint32))
        return jax.random.wrap_key_data(data, impl=saved["key_impl"])
    return _put(array, sharding, template.dtype)


def _put(array: SavedArray, sharding: jax.sharding.Sharding | None, dtype: np.dtype) -> jax.Array:
    """Reads what the devices of this process need of an array, and puts it there: copies, not
    aliases of NumPy's memory, because training donates them.
    """
    if sharding is None:
        on_default: jax.Array = jax.device_put(array.read(array.whole), may_alias=False)
        return on_default
    shape = array.whole.stop
    parts = {box: array.read(box) for box in own_boxes(sharding, shape)}
    return assemble(shape, sharding, parts, dtype)
