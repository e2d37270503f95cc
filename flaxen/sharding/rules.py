"""The rules from logical axes to the axes of a mesh. Nothing else says what is divided by what.

Deliberately does not know models, arrays, nor which devices there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jax.sharding import PartitionSpec

from flaxen.sharding.shape import AXES, MeshShape

# A logical axis is divided over these axes of the mesh. An axis of the mesh may be named itself.
RULES: Mapping[str, tuple[str, ...]] = {
    # of parameters
    "vocab": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "model": ("fsdp",),
    "embed": ("fsdp",),  # the name of the same in many modules of Flax
    "stages": ("pipeline",),
    "head_dim": (),
    "experts": (),
    "layers": (),
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
    """The axes of the mesh that divide each axis of an array.

    An axis is whole on every device if its parts would not be equal.

    Args:
      axes: the logical name of each axis of the array; None is not divided.
      shape: the array's.
      mesh: the sizes of the mesh's axes.
      head_dim: how many numbers along `heads` and `kv_heads` stay together.

    Raises:
      ValueError: an axis has a name for which there is no rule.
    """
    used: set[str] = set()
    parts: list[tuple[str, ...] | None] = []
    for axis, size in zip(axes, shape, strict=True):
        names = tuple(
            name for name in _mesh_axes(axis) if mesh.sizes()[name] > 1 and name not in used
        )
        count = num_parts(names, mesh)
        units = size // head_dim if axis in ("heads", "kv_heads") else size
        if count == 1 or units % count:
            parts.append(None)
            continue
        used.update(names)
        parts.append(names)
    return PartitionSpec(*parts)


def check_axis(axis: str | None) -> None:
    """Refuses a name for which there is no rule.

    Raises:
      ValueError: there is no rule for the name; the message lists the names.
    """
    if axis is not None and axis not in RULES and axis not in AXES:
        raise ValueError(
            f"the axis {axis!r} is not known: use {', '.join(RULES)}, an axis of the mesh "
            f"({', '.join(AXES)}), or None for one that is not divided"
        )


def _mesh_axes(axis: str | None) -> tuple[str, ...]:
    if axis is None:
        return ()
    check_axis(axis)
    return RULES.get(axis, (axis,))


def num_parts(names: Sequence[str], mesh: MeshShape) -> int:
    """The number of parts into which these axes of the mesh divide one axis of an array."""
    count = 1
    for name in names:
        count *= mesh.sizes()[name]
    return count
