"""top-k, top-p and min-p in plain jnp: thresholds on the logits, without a sort.

The bits of float32 numbers, read as integers after a small change, have the order of the floats. So
a threshold is found by bisection over 32 bits, each with a comparison and a sum over the
vocabulary: exact, and cheaper than a sort. Tokens with equal logits are kept or dropped together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp


def filter_top_k(logits: jax.Array, top_k: jax.Array, num_parts: int = 1) -> jax.Array:
    """Keeps the top_k largest logits of each row.

    Args:
      logits: float32 [S, V].
      top_k: int32 [S]; 0 keeps all.
      num_parts: as in `row_sum`.

    Returns:
      float32 [S, V], -inf where dropped.
    """
    keys = _ordered(logits)

    def keeps_enough(threshold: jax.Array) -> jax.Array:
        return row_sum(keys >= threshold[:, None], num_parts) >= top_k

    threshold = _largest(keeps_enough, logits.shape[0])
    return jnp.where((keys >= threshold[:, None]) | (top_k == 0)[:, None], logits, -jnp.inf)


def filter_top_p(
    logits: jax.Array,
    top_p: jax.Array,
    num_parts: int = 1,
    mass_sum: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Keeps the fewest most likely tokens with at least top_p of each row's probability.

    https://arxiv.org/abs/1904.09751, section 3.1.

    Args:
      logits: float32 [S, V]; -inf is never kept.
      top_p: float32 [S], [0, 1]; 1 keeps all, 0 only the likeliest.
      num_parts: as in `row_sum`.
      mass_sum: adds up the rows of [S, V]; None is `row_sum`.

    Returns:
      float32 [S, V], -inf where dropped.
    """
    total = mass_sum or functools.partial(row_sum, num_parts=num_parts)
    keys = _ordered(logits)
    mass = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    # Above 0, which an empty set would already reach.
    wanted = jnp.maximum(top_p * total(mass), 1e-30)

    def keeps_enough(threshold: jax.Array) -> jax.Array:
        return total(jnp.where(keys >= threshold[:, None], mass, 0)) >= wanted

    threshold = _largest(keeps_enough, logits.shape[0])
    return jnp.where((keys >= threshold[:, None]) | (top_p >= 1)[:, None], logits, -jnp.inf)


def filter_min_p(logits: jax.Array, min_p: jax.Array) -> jax.Array:
    """Keeps tokens at least min_p times as likely as the likeliest.

    https://arxiv.org/abs/2407.01082.

    Args:
      logits: float32 [S, V].
      min_p: float32 [S], [0, 1]; 0 keeps all.

    Returns:
      float32 [S, V], -inf where dropped.
    """
    floor = jnp.max(logits, axis=-1, keepdims=True) + jnp.log(min_p)[:, None]
    return jnp.where(logits >= floor, logits, -jnp.inf)


def _ordered(x: jax.Array) -> jax.Array:
    """Maps floats to unsigned integers with the same order."""
    x = jnp.where(x == 0, 0.0, x)  # -0 becomes 0
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    sign = jnp.uint32(0x8000_0000)
    return jnp.where(bits & sign, ~bits, bits | sign)


def _largest(holds: Callable[[jax.Array], jax.Array], num_rows: int) -> jax.Array:
    """The largest uint32 of each row for which `holds` is true; `holds` is monotone, and true for
    0.
    """

    def try_bit(i: jax.Array, found: jax.Array) -> jax.Array:
        candidate = found | (jnp.uint32(0x8000_0000) >> i.astype(jnp.uint32))
        return jnp.where(holds(candidate), candidate, found)

    found: jax.Array = jax.lax.fori_loop(0, 32, try_bit, jnp.zeros(num_rows, jnp.uint32))
    return found


def row_sum(x: jax.Array, num_parts: int = 1) -> jax.Array:
    """The sum of each row of [S, V], in two stages so that XLA's CPU code is vectorised.

    Args:
      x: [S, V].
      num_parts: V is in as many equal parts, each of which a device of a mesh sums by itself.
    """
    dtype = jnp.int32 if x.dtype == jnp.bool_ else x.dtype
    lanes = 256
    parts = x.reshape(x.shape[0], num_parts, -1)
    padded = jnp.pad(parts, ((0, 0), (0, 0), (0, -parts.shape[2] % lanes)))
    blocks = padded.reshape(*parts.shape[:2], -1, lanes)
    sums = jnp.sum(jnp.sum(blocks, axis=2, dtype=dtype), axis=2)
    return sums[:, 0] if num_parts == 1 else jnp.sum(sums, axis=1)
