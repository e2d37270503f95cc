"""Sampling in plain jnp: the definition of what the kernel does, and what runs without it.

Work that no row asks for is skipped at run time, and adds nothing to the bits of rows that did not
ask for it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxen.kernels.sample.filters import filter_min_p, filter_top_k, filter_top_p, row_sum


def sample(
    logits: jax.Array,
    temperature: jax.Array,
    top_k: jax.Array,
    top_p: jax.Array,
    min_p: jax.Array,
    seed: jax.Array,
    position: jax.Array,
    wanted: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """As flaxen.kernels.sample.sample."""
    greedy = _argmax(logits)
    is_random = wanted & (temperature > 0)

    def draw() -> jax.Array:
        heat = jnp.where(is_random, temperature, 0)
        noisy = perturbed(logits, heat, top_k, top_p, min_p, seed, position)
        return jnp.where(is_random, _argmax(noisy), greedy)

    tokens = jax.lax.cond(jnp.any(is_random), draw, lambda: greedy)
    finite = jnp.isfinite(row_sum(logits))  # XLA's max may pass over a NaN, a sum does not
    return jnp.where(wanted, tokens, 0), wanted & finite


def perturbed(
    logits: jax.Array,
    temperature: jax.Array,
    top_k: jax.Array,
    top_p: jax.Array,
    min_p: jax.Array,
    seed: jax.Array,
    position: jax.Array,
) -> jax.Array:
    """Logits over temperature, plus Gumbel noise, where the filters keep them: [S, V].

    The largest of a row is a draw from its distribution, https://arxiv.org/abs/1611.01144, section
    2. The noise comes from the row's own key (seed, position) and the token's id, never from the
    batch. Rounding can only change a draw whose two largest are within it, where the inverse of a
    cumulative sum has a boundary at every token.
    """
    is_random = temperature > 0
    divisor = jnp.where(is_random, temperature, 1)
    # The largest becomes 0, which no temperature makes infinite.
    logits = (logits - jnp.max(logits, axis=-1, keepdims=True)) / divisor[:, None]
    logits = jax.lax.cond(
        jnp.any(is_random & ((top_k > 0) | (top_p < 1) | (min_p > 0))),
        lambda x: filter_top_p(filter_top_k(filter_min_p(x, min_p), top_k), top_p),
        lambda x: x,
        logits,
    )
    return logits + _gumbel(seed, position, logits.shape[-1])


def _argmax(logits: jax.Array) -> jax.Array:
    """As jnp.argmax, the first of equals, by two plain reductions: several times faster on CPU."""
    ids = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    is_largest = logits == jnp.max(logits, axis=-1, keepdims=True)
    first = jnp.min(jnp.where(is_largest, ids[None], logits.shape[-1]), axis=-1)
    return jnp.minimum(first, logits.shape[-1] - 1)  # NaN equals nothing


def _gumbel(seed: jax.Array, position: jax.Array, vocab_size: int) -> jax.Array:
    """Standard Gumbel numbers from (seed [S, 2], position [S], token id), float32 [S, V]."""
    key_x, key_y, key_z = _pcg3d(seed[:, 0], seed[:, 1], position.astype(jnp.uint32))
    ids = jnp.arange(vocab_size, dtype=jnp.uint32)[None]
    bits, _, _ = _pcg3d(key_x[:, None] ^ ids, key_y[:, None] + ids, key_z[:, None])
    # As -log(-log(1 - v)): float32 is fine-grained at small v, where the largest come from.
    v = (bits.astype(jnp.float32) + 0.5) * jnp.float32(2**-32)
    return -jnp.log(-jnp.log1p(-jnp.minimum(v, jnp.float32(1 - 2**-24))))


def _pcg3d(x: jax.Array, y: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Three uint32 to three that look random: pcg3d, https://jcgt.org/published/0009/03/02/.

    A counter-based generator of a few operations: jax.random's takes seconds to compile.
    """
    x, y, z = (word * jnp.uint32(1664525) + jnp.uint32(1013904223) for word in (x, y, z))
    for turn in range(2):
        x = x + y * z
        y = y + z * x
        z = z + x * y
        if turn == 0:
            x, y, z = (word ^ (word >> 16) for word in (x, y, z))
    return x, y, z
