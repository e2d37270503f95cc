"""Causal attention of some consecutive queries of a row over the keys of the whole row.

On a mesh each device has the queries of its part of a row. The scores of a few queries are in
memory at once, in both passes: rows that are divided are long. Deliberately does not know meshes.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from flaxen.attention_kernels.causal_attention import reference
from flaxen.attention_kernels.causal_attention.reference import Operands, Options

_BLOCK = 128  # the most queries whose scores are in memory at once


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def causal_attention(operands: Operands, first: jax.Array, options: Options) -> jax.Array:
    """Like `reference.causal_attention`.

    Args:
      operands: q [B, T, N, H] and the others of rows of S >= T tokens.
      first: the place of the first query in the row.
      options: the same for all tokens.
    """
    B, T, N, H = operands.q.shape
    size = next(size for size in range(min(_BLOCK, T), 0, -1) if T % size == 0)
    blocks = jnp.moveaxis(operands.q.reshape(B, T // size, size, N, H), 1, 0)

    def block(each: tuple[jax.Array, jax.Array]) -> jax.Array:
        number, own = each
        start = first + number * size
        return reference.causal_attention(operands._replace(q=own), options, start)

    out = jax.lax.map(block, (jnp.arange(T // size), blocks))
    return jnp.moveaxis(out, 0, 1).reshape(B, T, N, -1)


_Kept = tuple[Operands, jax.Array]


def _forward(operands: Operands, first: jax.Array, options: Options) -> tuple[jax.Array, _Kept]:
    return causal_attention(operands, first, options), (operands, first)


def _backward(options: Options, kept: _Kept, cotangent: jax.Array) -> tuple[Operands, None]:
    operands, first = kept
    return reference.gradient(operands, cotangent, options, first), None


causal_attention.defvjp(_forward, _backward)
