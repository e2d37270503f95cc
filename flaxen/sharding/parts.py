"""The parts of an array that are on the devices of a mesh, and arrays made of their parts.

A part is read, or written, by itself, so that nobody holds the whole array. Deliberately does not
know files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np


class Box(NamedTuple):
    """A part of an array: where it begins and ends along each axis."""

    start: tuple[int, ...]
    stop: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the part."""
        return tuple(stop - start for start, stop in zip(self.start, self.stop, strict=True))

    @property
    def slices(self) -> tuple[slice, ...]:
        """The part as an index of the whole array."""
        return tuple(map(slice, self.start, self.stop))

    def common(self, other: Box) -> Box | None:
        """The part that two parts of one array have in common; None if there is none."""
        start = tuple(map(max, self.start, other.start))
        stop = tuple(map(min, self.stop, other.stop))
        return None if any(a >= b for a, b in zip(start, stop, strict=True)) else Box(start, stop)

    def inside(self, other: Box) -> tuple[slice, ...]:
        """The part as an index of another one that contains it."""
        return tuple(
            slice(start - first, stop - first)
            for start, stop, first in zip(self.start, self.stop, other.start, strict=True)
        )


def box_of(index: Sequence[slice], shape: Sequence[int]) -> Box:
    """The part that an index of slices takes of an array."""
    bounds = [each.indices(size)[:2] for each, size in zip(index, shape, strict=True)]
    return Box(tuple(start for start, _ in bounds), tuple(stop for _, stop in bounds))


def own_boxes(
    sharding: jax.sharding.Sharding, shape: tuple[int, ...]
) -> dict[Box, list[jax.Device]]:
    """The different parts of an array on this process's devices, with the devices of each."""
    found: dict[Box, list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        assert index is not None
        found.setdefault(box_of(index, shape), []).append(device)
    return found


def assemble(
    shape: tuple[int, ...],
    sharding: jax.sharding.Sharding,
    parts: Mapping[Box, np.ndarray],
    dtype: np.dtype | None = None,
) -> jax.Array:
    """Puts the parts of an array on their devices, as copies.

    Args:
      shape: the whole array's.
      sharding: where its parts are.
      parts: those of `own_boxes`; none where this process has none of its devices.
      dtype: of the parts; None takes it from them, where there are any.
    """
    arrays = [
        jax.device_put(parts[box], device, may_alias=False)
        for box, devices in own_boxes(sharding, shape).items()
        for device in devices
    ]
    return jax.make_array_from_single_device_arrays(shape, sharding, arrays, dtype=dtype)
