"""Reads the checkpoints of a training run; changes nothing in their directory.

Deliberately does not know the meaning of the tree, or training.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

# Names in a checkpoint's directory, which is named by its step.
ARRAYS, INDEX = "arrays", "index"
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
        if _STEP.fullmatch(entry.name) and _index_of(entry).is_file()
    )


def read_extra(directory: Path, step: int) -> Json:
    """Reads the extra value of a complete checkpoint, without reading arrays."""
    return _read_index(directory.absolute() / str(step))["extra"]


def _read_index(path: Path) -> dict[str, Json]:
    index: dict[str, Json] = json.loads(_index_of(path).read_bytes())
    return index


def _index_of(path: Path) -> Path:
    return path / INDEX / "metadata"


def restore(directory: Path, template: Tree, step: int | None = None) -> Restored:
    """Restores a tree in the form of a template.

    Args:
      directory: the directory of checkpoints.
      template: a tree with the same structure, shapes and dtypes; leaves may be
          jax.ShapeDtypeStruct. The result has JAX arrays on the template's devices, or NumPy arrays
          where the template has them.
      step: the checkpoint's step; None is the last complete one.

    Raises:
      ValueError: there is no such checkpoint, or a leaf is missing, is not in the template, or has
          another shape or dtype there; the message names it.
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
    arrays = _read_arrays(path, leaves)
    tree = jax.tree.unflatten(
        structure,
        # Each array is freed once it is on the device, so that the host never holds two copies of
        # all.
        [_as(leaf, leaves[name], arrays.pop(name, None)) for name, leaf in named.items()],
    )
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
            found = {part: saved[part] for part in saved if part != "key_impl"}
        if found != wanted:
            raise ValueError(f"the leaf {name} has {_said(found)}, and {_said(wanted)} is needed")
    if leaves.keys() - template.keys():
        raise ValueError(f"the leaf {min(leaves.keys() - template.keys())} has no place")


def _said(leaf: dict[str, Json]) -> str:
    if "dtype" in leaf:
        return f"{leaf['dtype']}{leaf['shape']}"
    kind = leaf["value"] if isinstance(leaf["value"], str) else type(leaf["value"]).__name__
    return f"a Python {kind}"


def _read_arrays(path: Path, leaves: dict[str, Json]) -> dict[str, np.ndarray]:
    wanted = {
        name: jax.ShapeDtypeStruct(shape, dtype)
        for name, (shape, dtype) in {
            name: _stored_as(leaf) for name, leaf in leaves.items() if "shape" in leaf
        }.items()
        if 0 not in shape
    }
    if not wanted:
        return {}
    on_host = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in wanted}
    handler = ocp.CompositeCheckpointHandler(**{ARRAYS: ocp.PyTreeCheckpointHandler()})
    with ocp.Checkpointer(handler) as checkpointer:
        restored = checkpointer.restore(
            path,
            args=ocp.args.Composite(
                **{ARRAYS: ocp.args.PyTreeRestore(item=wanted, restore_args=on_host)}
            ),
        )
    arrays: dict[str, np.ndarray] = restored[ARRAYS]
    return arrays


def _stored_as(leaf: dict[str, Json]) -> tuple[tuple[int, ...], Any]:
    """The shape and dtype of a leaf's array in the checkpoint; of the key data for a PRNG key."""
    shape = tuple(leaf["shape"])
    if "key_impl" in leaf:
        data = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=leaf["key_impl"])))
        return shape + data.shape, data.dtype
    return shape, jnp.dtype(leaf["dtype"])


def _as(template: Any, saved: dict[str, Json], array: np.ndarray | None) -> Any:
    """Converts a leaf to the template's form."""
    if "value" in saved:
        return saved["value"]
    if array is None:
        array = np.zeros(*_stored_as(saved))
    array = np.asarray(array)
    if isinstance(template, np.ndarray | np.generic):
        return array if isinstance(template, np.ndarray) else array[()]
    sharding = template.sharding if isinstance(template, jax.Array) else None
    # A copy, not an alias of Orbax's memory, because training donates it.
    on_device = jax.device_put(array, None if "key_impl" in saved else sharding, may_alias=False)
    if "key_impl" in saved:
        return jax.random.wrap_key_data(on_device, impl=saved["key_impl"])
    return on_device
