"""Takes the arrays of a tree apart into the pieces that are saved: no piece twice, and by each
process only pieces that its own devices hold.

Deliberately does not know files, nor the meaning of the tree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from flaxen.checkpoints.reading import PLAIN, Json, Tree
from flaxen.sharding.parts import Box, box_of
from flaxen.sharding.processes import Processes


class Pieces(NamedTuple):
    """The parts of a tree that are saved, and the entries of its index."""

    arrays: dict[str, np.ndarray]  # this process's pieces, by their names in its file
    leaves: dict[str, Json]  # the index entry of each leaf, by its path
    is_divided: bool  # whether some array has several pieces, or several processes hold them


class _Piece(NamedTuple):
    box: Box
    process: int
    data: Any  # an array; None if another process has it


def take_apart(tree: Tree, processes: Processes) -> Pieces:
    """Finds the pieces of a tree's arrays. Nothing is gathered: each piece is a device's own.

    Args:
      tree: as in `Checkpoints.save`.
      processes: those that hold it.

    Raises:
      ValueError: a leaf can't be saved.
    """
    leaves: dict[str, Json] = {}
    found: dict[str, list[_Piece]] = {}
    written = [0] * processes.count  # bytes, by process
    for place, leaf in jax.tree.flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(place)
        if type(leaf) in PLAIN:
            leaves[name] = {"value": leaf}
            continue
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
            raise ValueError(
                f"the leaf {name} is a {type(leaf).__name__}: only arrays, bool, int, float and "
                "str can be saved"
            )
        leaves[name] = {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaves[name]["key_impl"] = str(jax.random.key_impl(leaf))
            leaf = jax.random.key_data(leaf)
        found[name] = list(_pieces(leaf, processes, written))
    is_divided = processes.count > 1 or any(len(each) > 1 for each in found.values())
    if is_divided:
        for name, pieces in found.items():
            leaves[name]["parts"] = [
                {
                    "file": piece.process,
                    "name": _name(name, number),
                    "start": list(piece.box.start),
                    "stop": list(piece.box.stop),
                }
                for number, piece in enumerate(pieces)
            ]
    own = {
        _name(name, number): piece.data
        for name, pieces in found.items()
        for number, piece in enumerate(pieces)
        if piece.data is not None
    }
    return Pieces(_on_host(own), leaves, is_divided)


def _name(leaf: str, number: int) -> str:
    return f"{leaf}#{number}" if number else leaf


def _pieces(leaf: Any, processes: Processes, written: list[int]) -> Iterator[_Piece]:
    """The pieces of an array. Of the processes that have a piece, the one that has written least
    writes it; all of them find the same.
    """
    if not isinstance(leaf, jax.Array):  # each process has it
        whole = Box((0,) * leaf.ndim, tuple(leaf.shape))
        # Copied, because arrays of NumPy may be modified while they are written.
        yield _Piece(whole, 0, np.array(leaf) if processes.index == 0 else None)
        return
    # An array that this process made for itself, without a mesh, is the same in process 0, which
    # saves its own. One on a mesh may be on the devices of other processes alone: those of a
    # pipeline stage.
    is_on_mesh = isinstance(leaf.sharding, NamedSharding)
    if not is_on_mesh and all(processes.of(device) for device in leaf.sharding.device_set):
        written[0] += leaf.nbytes  # as process 0 counts
        return
    copies: dict[Box, dict[int, Any]] = {}  # one of each process
    for shard in leaf.global_shards:
        box = box_of(shard.index, leaf.shape)
        copies.setdefault(box, {}).setdefault(processes.of(shard.device), shard)
    for box, shards in sorted(copies.items(), key=lambda each: each[0]):
        process = min(shards, key=lambda each: (written[each], each))
        written[process] += math.prod(box.shape) * leaf.dtype.itemsize
        is_own = process == processes.index
        yield _Piece(box, process, shards[process].data if is_own else None)


def _on_host(arrays: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays in the host's memory. Those on a CPU are not copied: they are immutable."""
    for each in arrays.values():
        is_on_cpu = not isinstance(each, jax.Array) or {d.platform for d in each.devices()} == {
            "cpu"
        }
        if not is_on_cpu:
            each.copy_to_host_async()  # all devices at once
    return {name: np.asarray(each) for name, each in arrays.items()}
