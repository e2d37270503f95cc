"""Computes products with parameters, embedding lookups, and sums with our kernels if possible.

Each rule takes a run, an operation and its inputs, and returns the outputs; None runs the operation
unchanged. Deliberately does not know loops, functions or attention: interpret.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from flaxen.bridges.jaxpr.run import Normed, Product, Run, Use, plain, without_padding
from flaxen.bridges.jaxpr.trace import shape_of
from flaxen.bridges.jaxpr.views import Axes, View
from flaxen.kernels.linear import (
    LinearWeight,
    LoraWeight,
    Norm,
    PackedLinear,
    embed,
    linear,
    linears,
    pack,
)


@dataclass(frozen=True, kw_only=True)
class Operand:
    """An input that is multiplied with packed weights."""

    rows: jax.Array  # [..., I], zeros in padding rows
    norm: Norm | None  # the norm before the product
    source: Any  # the weights [I, O]
    outputs: list[int]  # the axes of the weight's view that make up O, in order


def operand(run: Run, eqn: JaxprEqn, x: Any, view: View, weight: int) -> Operand | None:
    """The operand of a product with a parameter; None if its weights can't be packed so.

    Args:
      run: the current run; it is updated.
      eqn: the product.
      x: the other factor, perhaps a norm's output.
      view: the view of the parameter.
      weight: the parameter's index among the two factors.
    """
    contracted, _ = eqn.params["dimension_numbers"]
    summed, matrix = contracted[weight], view.matrix
    if matrix is None or x.dtype != view.dtype:
        return None
    free = [axis for axis in range(len(view.axes)) if axis not in summed]
    in_order = _ordered(summed, view, matrix.inputs)
    out_order = _ordered(free, view, matrix.outputs)
    if in_order is None or out_order is None:
        return None
    ndim = len(x.shape)
    x_summed = [contracted[1 - weight][list(summed).index(axis)] for axis in in_order]
    x_free = [axis for axis in range(ndim) if axis not in x_summed]
    norm = None
    if isinstance(x, Normed) and x_summed == [ndim - 1]:
        x, norm = x.x, (x.weight, x.eps)
    array = plain(run, x)
    has_zeros = run.has_zeros(array)
    rows = array.transpose(*x_free, *x_summed)
    rows = rows.reshape(*rows.shape[: len(x_free)], -1)
    if x_summed == [ndim - 1]:
        rows = array  # the same array for all products with this input
    if not has_zeros:
        rows = without_padding(run, rows)
    return Operand(rows=rows, norm=norm, source=view.source, outputs=out_order)


def dot(run: Run, eqn: JaxprEqn, values: list[Any]) -> list[Any] | None:
    """Handles a product with a parameter."""
    (contracted, batched) = eqn.params["dimension_numbers"]
    is_weight = [isinstance(value, View) for value in values]
    if all(is_weight) or not any(is_weight) or batched[0]:
        return None
    weight, x = (0, 1) if is_weight[0] else (1, 0)
    view = values[weight]
    summed = contracted[weight]
    free = [axis for axis in range(len(view.axes)) if axis not in summed]
    inputs = tuple(axis for each in summed for axis in view.axes[each])
    outputs = tuple(axis for each in free for axis in view.axes[each])
    run.uses.append(
        Use(leaf=view.leaf, inputs=inputs, outputs=outputs, layers=view.layers, kind="product")
    )
    number = len(run.products)
    is_simple = len(summed) == 1 and weight == 1
    shared = values[x] if is_simple else None
    run.products.append(Product(x=shared, leaf=view.leaf, index=view.index))
    if view.matrix is None:
        plains = [value.array() if isinstance(value, Normed | View) else value for value in values]
        return [eqn.primitive.bind(*plains, **eqn.params)]
    found = operand(run, eqn, values[x], view, weight)
    if found is None:
        return None
    rows, dtype = found.rows, shape_of(eqn.outvars[0]).dtype
    out = run.made.pop(number, None)
    if out is None and dtype == rows.dtype:
        out = _several(run, number, found)
    if out is None or out.dtype != dtype:
        rows = _in_shape(rows, view.source)
        out = linear(rows, view.source, norm=found.norm, out_dtype=dtype, backend=run.backend)
    lead = found.rows.shape[:-1]
    out = out.reshape(*lead, *(view.shape[axis] for axis in found.outputs))
    back = [len(lead) + found.outputs.index(axis) for axis in free]
    lead_axes = list(range(len(lead)))
    return [out.transpose(*back, *lead_axes) if weight == 0 else out.transpose(*lead_axes, *back)]


def _several(run: Run, number: int, found: Operand) -> jax.Array | None:
    """Computes a product together with others that have the same input, in one kernel call."""
    others = run.together.get(number, ())
    sources = [found.source]
    for _, product in others:
        leaf = run.leaves[product.leaf]
        sources.append(leaf if product.index is None else leaf[product.index])
    if len(sources) == 1 or not all(isinstance(each, PackedLinear) for each in sources):
        return None
    biases = (None,) * len(sources)
    outs = linears(found.rows, tuple(sources), biases, norm=found.norm, backend=run.backend)
    run.made.update({number: out for (number, _), out in zip(others, outs[1:], strict=True)})
    return outs[0]


def _in_shape(rows: jax.Array, source: Any) -> jax.Array:
    """Reshapes rows to the tokens' shape for adapters, which have one id for each token."""
    return rows.reshape(*source.ids.shape, -1) if isinstance(source, LoraWeight) else rows


def _ordered(axes: Sequence[int], view: View, wanted: Axes) -> list[int] | None:
    """Orders a view's axes so that the parameter's axes come as wanted; None if impossible."""
    named = [axis for axis in axes if view.axes[axis]]
    if any(view.axes[axis][0] not in wanted for axis in named):
        return None
    named.sort(key=lambda axis: wanted.index(view.axes[axis][0]))
    if tuple(each for axis in named for each in view.axes[axis]) != wanted:
        return None
    return [*named, *(axis for axis in axes if not view.axes[axis])]


def gather(run: Run, eqn: JaxprEqn, values: list[Any]) -> list[Any] | None:
    """Handles a lookup of table rows by token ids."""
    table, indices = values
    numbers = eqn.params["dimension_numbers"]
    if not isinstance(table, View) or isinstance(indices, View) or len(table.axes) != 2:
        return None
    takes_rows = (
        numbers.start_index_map == numbers.collapsed_slice_dims == (0,)
        and numbers.offset_dims == (indices.ndim - 1,)
        and not numbers.operand_batching_dims
        and tuple(eqn.params["slice_sizes"]) == (1, table.shape[1])
    )
    if not takes_rows:
        return None
    run.uses.append(Use(leaf=table.leaf, inputs=table.axes[1], outputs=table.axes[0], kind="rows"))
    matrix = table.matrix
    if matrix is None:
        return [eqn.primitive.bind(table.array(), indices, **eqn.params)]
    fits = (matrix.inputs, matrix.outputs) == (table.axes[1], table.axes[0])
    if not fits or not isinstance(table.source, LinearWeight):
        return None
    return [embed(table.source, indices[..., 0], table.dtype, backend=run.backend)]


def sum_of_last(run: Run, eqn: JaxprEqn, values: list[Any]) -> list[Any] | None:
    """Computes a sum over the last axes, such as a norm's, as a product with ones: its order of
    additions does not depend on the number of rows.
    """
    x = plain(run, values[0])
    axes = sorted(eqn.params["axes"])
    is_float = x.dtype in (jnp.float32, jnp.bfloat16)
    if not is_float or not axes or axes != list(range(x.ndim - len(axes), x.ndim)):
        return [eqn.primitive.bind(x, **eqn.params)]
    lead = x.shape[: axes[0]]
    size = math.prod(x.shape[axes[0] :])
    ones = pack(jnp.ones((size, 1), x.dtype), backend=run.backend)
    rows = x.reshape(math.prod(lead), size)
    return [linear(rows, ones, out_dtype=x.dtype, backend=run.backend).reshape(lead)]
