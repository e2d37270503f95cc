"""A parameter on its way through a definition: transposed, reshaped, until it is multiplied.

The kernels take a weight packed once, as [inputs, outputs]. A view remembers which axes of the
parameter lie where, so that a product finds out whether it is one of packed weights. Deliberately
does not know how a definition is run.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from flaxen.kernels.linear import LoraWeight, PackedLinear, unpack
from flaxen.models.model import Matrix

Axes = tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """What became of a parameter. A sliced layer's view has no longer the axis of the layers."""

    leaf: int  # the parameter's number
    source: Any  # an array of the parameter's shape, or [I, O] as PackedLinear or LoraWeight
    sizes: tuple[int, ...]  # the parameter's shape
    matrix: Matrix | None  # how the source is packed; None of an array
    axes: tuple[Axes, ...]  # the parameter's axes in each axis of the view; those of size 1 in none
    dtype: jnp.dtype
    layers: int | None = None  # the axis that was sliced away
    index: int | None = None  # which slice it is

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the view."""
        return tuple(math.prod(self.sizes[axis] for axis in each) for each in self.axes)

    def cast(self, dtype: Any) -> View:
        """The same in another dtype."""
        return dataclasses.replace(self, dtype=jnp.dtype(dtype))

    def transpose(self, permutation: Axes) -> View:
        """As jnp.transpose."""
        return dataclasses.replace(self, axes=tuple(self.axes[axis] for axis in permutation))

    def reshape(self, shape: tuple[int, ...]) -> View | None:
        """As jnp.reshape where whole axes are merged or parted again; else None."""
        left = [axis for each in self.axes for axis in each]
        axes = []
        for size in shape:
            taken: list[int] = []
            while left and math.prod(self.sizes[axis] for axis in taken) < size:
                taken.append(left.pop(0))
            if math.prod(self.sizes[axis] for axis in taken) != size:
                return None
            axes.append(tuple(taken))
        return None if left else dataclasses.replace(self, axes=tuple(axes))

    def layer(self, index: int) -> View | None:
        """A slice of the first axis, as a scan over stacked layers takes it; None if it is none."""
        if not self.axes or len(self.axes[0]) != 1 or self.layers is not None:
            return None
        (axis,) = self.axes[0]
        if self.matrix is not None:
            assert self.matrix.layers == axis, "packed along another axis"
            source = self.source[index]
        else:
            source = jax.lax.index_in_dim(self.source, index, axis, keepdims=True)
        return dataclasses.replace(
            self, source=source, axes=self.axes[1:], layers=axis, index=index
        )

    def array(self) -> jax.Array:
        """The values, unpacked if need be."""
        values = self.source
        if self.matrix is not None:
            values = _unpacked(values, self.matrix, self.sizes, self.layers)
        kept = [axis for each in self.axes for axis in each]
        dropped = [axis for axis in range(len(self.sizes)) if axis not in kept]
        found: jax.Array = values.transpose(*kept, *dropped).reshape(self.shape)
        return found.astype(self.dtype)


def view(leaf: int, source: Any, shape: tuple[int, ...], matrix: Matrix | None, dtype: Any) -> View:
    """A parameter as it is.

    Args:
      leaf: its number.
      source: an array; or packed, where there is a matrix.
      shape: the parameter's.
      matrix: how the source is packed.
      dtype: of the values.
    """
    axes = tuple(() if size == 1 else (axis,) for axis, size in enumerate(shape))
    return View(
        leaf=leaf, source=source, sizes=shape, matrix=matrix, axes=axes, dtype=jnp.dtype(dtype)
    )


def _unpacked(source: Any, matrix: Matrix, sizes: tuple[int, ...], layers: int | None) -> jax.Array:
    """The parameter, or of a sliced one the layer with an axis of size 1."""
    if isinstance(source, LoraWeight):
        raise ValueError(
            f"an adapter is beside a parameter of shape {list(sizes)}, which the definition "
            "multiplies otherwise than in the parameter's own dtype: the adapter would be lost. "
            "Leave it out of the targets"
        )
    if isinstance(source, dict):
        parts = [_unpacked(each, matrix, sizes, matrix.layers) for each in source.values()]
        return jnp.concatenate(parts, axis=matrix.layers)
    found: jax.Array = unpack(source) if isinstance(source, PackedLinear) else source
    order = (*matrix.inputs, *matrix.outputs)
    rest = [axis for axis in range(len(sizes)) if axis not in order]
    values = found.reshape(*(sizes[axis] for axis in order), *(1 for _ in rest))
    return values.transpose([(*order, *rest).index(axis) for axis in range(len(sizes))])
