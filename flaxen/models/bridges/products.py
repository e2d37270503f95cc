"""Products with parameters, rows of tables, and sums, by the kernels where these have the weights.

Each rule takes a run, an operation and its inputs, and gives the outputs; None leaves the operation
as it is. Deliberately does not know loops, functions or attention: interpret.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from flaxen.kernels.linear import LoraWeight, PackedLinear, embed, linear, linears, pack
from flaxen.models.bridges.run import Product, Run, Use, plain
from flaxen.models.bridges.trace import shape_of
from flaxen.models.bridges.views import Axes, View


def dot(run: Run, eqn: JaxprEqn, values: list[Any]) -> list[Any] | None:
    (contracted, batched) = eqn.params["dimension_numbers"]
    is_weight = [isinstance(value, View) for value in values]
    if all(is_weight) or batched[0]:
        return None
    weight, x = (0, 1) if is_weight[0] else (1, 0)
    view, array = values[weight], values[x]
    summed = contracted[weight]
    free = [axis for axis in range(len(view.axes)) if axis not in summed]
    inputs = tuple(axis for each in summed for axis in view.axes[each])
    outputs = tuple(axis for each in free for axis in view.axes[each])
    run.uses.append(
        Use(leaf=view.leaf, inputs=inputs, outputs=outputs, layers=view.layers, kind="product")
    )
    number = len(run.products)
    is_simple = len(summed) == 1 and weight == 1
    run.products.append(Product(x=array if is_simple else None, leaf=view.leaf, index=view.index))
    matrix = view.matrix
    if matrix is None:
        values = [value.array() if isinstance(value, View) else value for value in values]
        return [eqn.primitive.bind(*values, **eqn.params)]
    in_order = _ordered(summed, view, matrix.inputs)
    out_order = _ordered(free, view, matrix.outputs)
    if in_order is None or out_order is None or array.dtype != view.dtype:
        return None
    x_summed = [contracted[x][list(summed).index(axis)] for axis in in_order]
    x_free = [axis for axis in range(array.ndim) if axis not in x_summed]
    rows = array.transpose(*x_free, *x_summed)
    lead = rows.shape[: len(x_free)]
    rows = _without_padding(run, rows.reshape(*lead, -1))
    dtype = shape_of(eqn.outvars[0]).dtype
    out = run.made.pop(number, None)
    if out is None and dtype == rows.dtype:
        out = _several(run, number, rows, view.source)
    if out is None or out.dtype != dtype:
        out = linear(_in_shape(rows, view.source), view.source, out_dtype=dtype)
    out = out.reshape(*lead, *(view.shape[axis] for axis in out_order))
    back = [len(lead) + out_order.index(axis) for axis in free]
    lead_axes = list(range(len(lead)))
    return [out.transpose(*back, *lead_axes) if weight == 0 else out.transpose(*lead_axes, *back)]


def _without_padding(run: Run, rows: jax.Array) -> jax.Array:
    """Zeros in place of padding, which the kernels skip; a definition made something of it."""
    if run.is_token is None or rows.shape[:-1] != run.is_token.shape:
        return rows
    return jnp.where(run.is_token[..., None], rows, 0)


def _several(run: Run, number: int, rows: jax.Array, source: Any) -> jax.Array | None:
    """A product, and those with it that have the same input: one call, which reads it once."""
    others = run.together.get(number, ())
    sources = [source]
    for _, product in others:
        leaf = run.leaves[product.leaf]
        sources.append(leaf if product.index is None else leaf[product.index])
    if len(sources) == 1 or not all(isinstance(each, PackedLinear) for each in sources):
        return None
    outs = linears(rows, tuple(sources), (None,) * len(sources))
    run.made.update({number: out for (number, _), out in zip(others, outs[1:], strict=True)})
    return outs[0]


def _in_shape(rows: jax.Array, source: Any) -> jax.Array:
    """Adapters have an id for each token, in the tokens' shape."""
    return rows.reshape(*source.ids.shape, -1) if isinstance(source, LoraWeight) else rows


def _ordered(axes: Sequence[int], view: View, wanted: Axes) -> list[int] | None:
    """A view's axes in an order in which the parameter's are as wanted; None: there is none."""
    named = [axis for axis in axes if view.axes[axis]]
    if any(view.axes[axis][0] not in wanted for axis in named):
        return None
    named.sort(key=lambda axis: wanted.index(view.axes[axis][0]))
    if tuple(each for axis in named for each in view.axes[axis]) != wanted:
        return None
    return [*named, *(axis for axis in axes if not view.axes[axis])]


def gather(run: Run, eqn: JaxprEqn, values: list[Any]) -> list[Any] | None:
    """Rows of a table, by the ids of tokens."""
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
    if not fits or not isinstance(table.source, PackedLinear):
        return None
    return [embed(table.source, indices[..., 0], table.dtype)]


def sum_of_last(run: Run, eqn: JaxprEqn, values: list[Any]) -> list[Any] | None:
    """A sum over the last axes, such as a norm's: by a product with ones, in one order for any
    number of rows."""
    x = plain(run, values[0])
    axes = sorted(eqn.params["axes"])
    is_float = x.dtype in (jnp.float32, jnp.bfloat16)
    if not is_float or not axes or axes != list(range(x.ndim - len(axes), x.ndim)):
        return [eqn.primitive.bind(x, **eqn.params)]
    lead = x.shape[: axes[0]]
    size = math.prod(x.shape[axes[0] :])
    ones = pack(jnp.ones((size, 1), x.dtype))
    rows = x.reshape(math.prod(lead), size)
    return [linear(rows, ones, out_dtype=x.dtype).reshape(lead)]
