"""Runs a pattern of operations with one fused kernel, as our own decoder does.

A rule takes a run, a pattern and the values of its operands, and returns the output; None means
that the pattern's own operations must be run. Deliberately does not know how patterns are found.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flaxen.bridges.jaxpr.patterns import Pattern
from flaxen.bridges.jaxpr.products import Operand, operand
from flaxen.bridges.jaxpr.run import Normed, Product, Run, plain, without_padding
from flaxen.bridges.jaxpr.views import View
from flaxen.kernels.linear import LoraWeight, gated_linear, linear
from flaxen.kernels.rope import apply_rope


def run_pattern(run: Run, pattern: Pattern, values: list[Any]) -> Any:
    """The output of a pattern, or None if no kernel computes it.

    Args:
      run: the current run; it is updated.
      pattern: a pattern found in the definition.
      values: the values of its operands.
    """
    if not run.backend.fuses_definitions:
        return None
    found = _RULES[pattern.kind](run, pattern, values)
    if found is not None:
        alone = Product(x=None, leaf=-1, index=None)
        run.products += [alone] * len(pattern.products)
    return found


def _norm(run: Run, pattern: Pattern, values: list[Any]) -> Normed:
    """A norm that is not computed yet: the kernels of the products that use it compute it."""
    x, weight = (plain(run, value) for value in values)
    return Normed(x=x, weight=weight, eps=pattern.eps, backend=run.backend)


def _gated(run: Run, pattern: Pattern, values: list[Any]) -> jax.Array | None:
    x, *weights = values
    gate, up = (_operand(run, pattern, x, weight) for weight in weights)
    if gate is None or up is None:
        return None
    shape = _shape(gate, up)
    rows = gate.rows.reshape(*shape, -1)
    out = gated_linear(rows, gate.source, up.source, norm=gate.norm, backend=run.backend)
    return _out(run, pattern, out)


def _residual(run: Run, pattern: Pattern, values: list[Any]) -> jax.Array | None:
    h, weight, x = values
    found = _operand(run, pattern, h, weight)
    if found is None:
        return None
    x, shape = without_padding(run, plain(run, x)), _shape(found)
    out = linear(
        found.rows.reshape(*shape, -1),
        found.source,
        norm=found.norm,
        residual=x.reshape(*shape, -1),
        backend=run.backend,
    )
    return _out(run, pattern, out)


def _rope(run: Run, pattern: Pattern, values: list[Any]) -> jax.Array:
    """Rotates the heads of each token by that token's row of the cos and sin tables."""
    x, cos, sin = (plain(run, value) for value in values)
    axes = range(x.ndim - 1)
    heads = [axis for axis in axes if cos.shape[axis] == 1]
    order = [*(axis for axis in axes if axis not in heads), *heads, x.ndim - 1]
    tokens = [x.shape[axis] for axis in axes if axis not in heads]
    half = x.shape[-1] // 2
    tables = (
        table[..., :half].astype(jnp.float32).reshape(*tokens, 1, half) for table in (cos, sin)
    )
    moved = x.transpose(order)
    rows = moved.reshape(*tokens, -1, 2 * half)
    out = apply_rope(rows, *tables, backend=run.backend).reshape(moved.shape)
    return out.transpose([order.index(axis) for axis in range(x.ndim)])


def _rounded(run: Run, pattern: Pattern, values: list[Any]) -> jax.Array:
    """The product behind a `where` that changes nothing: so LLVM can't fuse it with a sum into one
    multiply-add, which rounds once instead of twice. In jax 0.10 XLA removes an
    optimization_barrier before that.
    """
    (eqn,) = pattern.eqns
    product = eqn.primitive.bind(*(plain(run, value) for value in values), **eqn.params)
    return jnp.where(product != product, jnp.full_like(product, jnp.nan), product)


def _operand(run: Run, pattern: Pattern, x: Any, weight: Any) -> Operand | None:
    if isinstance(x, View) or not isinstance(weight, View):
        return None
    return operand(run, pattern.products[0], x, weight, 1)


def _shape(*operands: Operand) -> tuple[int, ...]:
    """The shape of the tokens: adapters have one id for each token, in that shape."""
    for each in operands:
        if isinstance(each.source, LoraWeight):
            shape: tuple[int, ...] = each.source.ids.shape
            return shape
    return operands[0].rows.shape[:-1]


def _out(run: Run, pattern: Pattern, out: jax.Array) -> jax.Array:
    out = out.reshape(pattern.outvars[0].aval.shape)
    run.mark_zeros(out)
    return out


_RULES: dict[str, Callable[[Run, Pattern, list[Any]], Any]] = {
    "gated": _gated,
    "norm": _norm,
    "residual": _residual,
    "rope": _rope,
    "rounded": _rounded,
}
