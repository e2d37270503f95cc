"""The rules from logical axes to the axes of a mesh. Nothing else says what is divided by what.

Deliberately does not know models, arrays, nor which devices there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jax.sharding import PartitionSpec

from flaxen.sharding.shape import MeshShape

# A logical axis is divided over these axes of the mesh; an axis that is not here is not divided.
RULES: Mapping[str, tuple[str, ...]] = {
    # of parameters
    "vocab": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "model": ("fsdp",),
    "stages": ("pipeline",),
    # of activations in training
    "batch": ("data", "fsdp"),
    "length": ("context",),
}


def partition(
    axes: Sequence[str | None],
    shape: Sequence[int],
    mesh: MeshShape,
    *,
    head_dim: int = 1,
) -> PartitionSpec:
    """Which axes of the mesh divide which axes of an array.

    An axis is whole on every device if no rule names it, or if its parts would not be equal.

    Args:
      axes: the logical name of each axis of the array; None is not divided.
      shape: the array's.
      mesh: the sizes of the mesh's axes.
      head_dim: how many numbers along `heads` and `kv_heads` stay together.
    """
    used: set[str] = set()
    parts: list[tuple[str, ...] | None] = []
    for axis, size in zip(axes, shape, strict=True):
        names = tuple(
            name
            for name in RULES.get(axis or "", ())
            if mesh.sizes()[name] > 1 and name not in used
        )
        count = num_parts(names, mesh)
        units = size // head_dim if axis in ("heads", "kv_heads") else size
        if count == 1 or units % count:
            parts.append(None)
            continue
        used.update(names)
        parts.append(names)
    return PartitionSpec(*parts)


def num_parts(names: Sequence[str], mesh: MeshShape) -> int:
    """Into how many parts these axes of the mesh divide one axis of an array."""
    count = 1
    for name in names:
        count *= mesh.sizes()[name]
    return count
