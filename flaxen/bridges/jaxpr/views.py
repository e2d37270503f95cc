"""Follows a parameter through transposes and reshapes until it is multiplied.

The kernels take a weight that is packed once, as [inputs, outputs]. A view records where the
parameter's axes are, so that a product can tell whether the packed weight fits. Deliberately does
not know how a definition is run.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from flaxen.kernels.linear import LinearWeight, LoraWeight, unpack
from flaxen.models.param_spec import Matrix

Axes = tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """A parameter as the definition sees it. The view of one stacked layer lacks the layer axis."""

    leaf: int  # the parameter's index
    source: Any  # an array of the parameter's shape, or [I, O] as PackedLinear or LoraWeight
    sizes: tuple[int, ...]  # the parameter's shape
    matrix: Matrix | None  # how the source is packed; None for an array
    axes: tuple[Axes, ...]  # the parameter's axes in each axis of the view, without those of size 1
    dtype: jnp.dtype
    layers: int | None = None  # the layer axis, if it was sliced away
    index: int | None = None  # which layer was taken

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the view."""
        return tuple(math.prod(self.sizes[axis] for axis in each) for each in self.axes)

    def cast(self, dtype: Any) -> View:
        """The same view in another dtype."""
        return dataclasses.replace(self, dtype=jnp.dtype(dtype))

    def transpose(self, permutation: Axes) -> View:
        """Like jnp.transpose."""
        return dataclasses.replace(self, axes=tuple(self.axes[axis] for axis in permutation))

    def reshape(self, shape: tuple[int, ...]) -> View | None:
        """Like jnp.reshape if whole axes are merged or split again; else None."""
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
        """The view of one layer, sliced from the first axis as in a scan; None if that is
        impossible.
        """
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
        """The values as an array, unpacked if necessary."""
        values = self.source
        if self.matrix is not None:
            values = _unpacked(values, self.matrix, self.sizes, self.layers)
        kept = [axis for each in self.axes for axis in each]
        dropped = [axis for axis in range(len(self.sizes)) if axis not in kept]
        found: jax.Array = values.transpose(*kept, *dropped).reshape(self.shape)
        return found.astype(self.dtype)


def view(leaf: int, source: Any, shape: tuple[int, ...], matrix: Matrix | None, dtype: Any) -> View:
    """The view of an untransformed parameter.

    Args:
      leaf: the parameter's index.
      source: an array, or the packed weight if there is a matrix.
      shape: the parameter's shape.
      matrix: how the source is packed.
      dtype: the dtype of the values.
    """
    axes = tuple(() if size == 1 else (axis,) for axis, size in enumerate(shape))
    return View(
        leaf=leaf, source=source, sizes=shape, matrix=matrix, axes=axes, dtype=jnp.dtype(dtype)
    )


def _unpacked(source: Any, matrix: Matrix, sizes: tuple[int, ...], layers: int | None) -> jax.Array:
    """Unpacks the parameter, or one layer of it (with a layer axis of size 1)."""
    if isinstance(source, LoraWeight):
        raise ValueError(
            f"an adapter targets a parameter of shape {list(sizes)}, which the definition "
            "multiplies otherwise than in the parameter's own dtype: the adapter would be lost. "
            "Leave it out of the targets"
        )
    if isinstance(source, dict):
        parts = [_unpacked(each, matrix, sizes, matrix.layers) for each in source.values()]
        return jnp.concatenate(parts, axis=matrix.layers)
    found: jax.Array = unpack(source) if isinstance(source, LinearWeight) else source
    order = (*matrix.inputs, *matrix.outputs)
    rest = [axis for axis in range(len(sizes)) if axis not in order]
    values = found.reshape(*(sizes[axis] for axis in order), *(1 for _ in rest))
    return values.transpose([(*order, *rest).index(axis) for axis in range(len(sizes))])
