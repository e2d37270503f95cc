"""Paged attention in its simplest form: every token against every slot of its pages."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from flaxen.attention_kernels.mask import sees
from flaxen.attention_kernels.paged_attention.pages import KvPages
from flaxen.attention_kernels.paged_attention.write import write_pages
from flaxen.kernels.paged_batch import PagedBatch


def paged_attention(
    q: Float[Array, "T N H"],
    k: Float[Array, "T K H"],
    v: Float[Array, "T K V"] | None,
    cache: KvPages,
    batch: PagedBatch,
    *,
    window: int | None = None,
    chunk: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Float32[Array, N] | None = None,
    value_dim: int | None = None,
) -> tuple[Float[Array, "T N V"], KvPages]:
    """Writes the new keys and values to their pages, then attends over the pages.

    Args:
      q: [T, N, H] queries.
      k: [T, K, H] new keys; N is a multiple of K.
      v: [T, K, V] new values; None if a value is the first `value_dim` numbers of its key.
      cache: keys and values, [pages, page size, K, H or V] each, computed with in q's dtype; keys
          alone if v is None; where they have scales, these multiply scores and weights.
      batch: the sequences and pages of the tokens.
      window: the number of tokens seen, the current one included; None sees all.
      chunk: a token sees the tokens of its own chunk of so many positions; None sees all.
      scale: multiplies the scores q . k; None is H ** -0.5.
      softcap: scores become softcap * tanh(scores / softcap); above 0; None for no cap.
      sinks: [N] attention sinks: for each query head a score that takes part in the softmax without
          a value.
      value_dim: V where v is None; else it is not used.

    Returns:
      [T, N, V] in q's dtype (padding tokens: zeros), and the updated cache.
    """
    T, N, H = q.shape
    cache = write_pages(k, v, cache, batch)
    page_size, K = cache.keys.shape[1:3]
    sequences, positions = batch.token_sequences(T), batch.token_positions(T)
    tables = batch.page_table[sequences]
    slots = jnp.arange(tables.shape[1] * page_size)
    visible = sees(positions[:, None], slots[None, :], window, chunk)
    # Stale slots may contain NaN, and 0 * NaN is NaN, here and in the gradient of the scores.

    def gather(pages: jax.Array) -> jax.Array:
        gathered = pages[tables].astype(q.dtype).reshape(T, slots.size, K, pages.shape[3])
        return jnp.where(visible[..., None, None], gathered, 0)

    keys = gather(cache.keys)
    values = keys[..., :value_dim] if cache.values is None else gather(cache.values)
    key_scales, value_scales = (
        None if each is None else _of_slots(each[tables], visible)
        for each in (cache.key_scales, cache.value_scales)
    )
    visible = visible.at[:, 0].set(visible[:, 0] | (positions < 0))  # avoids 0 / 0 for padding
    grouped_q = q.reshape(T, K, N // K, H)
    scores = jnp.einsum("TKGH,TSKH->TKGS", grouped_q, keys, preferred_element_type=jnp.float32)
    scores = scores * (H**-0.5 if scale is None else scale)
    if key_scales is not None:
        scores = scores * key_scales
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    scores = jnp.where(visible[:, None, None, :], scores, -jnp.inf)
    if sinks is not None:
        extra = jnp.broadcast_to(sinks.reshape(1, K, N // K, 1), (T, K, N // K, 1))
        scores = jnp.concatenate([scores, extra], axis=-1)
    weights = jax.nn.softmax(scores, axis=-1)[..., : slots.size]
    if value_scales is not None:
        weights = weights * value_scales
    weights = weights.astype(q.dtype)
    out = jnp.einsum("TKGS,TSKH->TKGH", weights, values, preferred_element_type=jnp.float32)
    return out.reshape(T, N, -1).astype(q.dtype), cache


def _of_slots(scales: jax.Array, visible: jax.Array) -> jax.Array:
    """The scales of all slots of each token, [T, K, 1, slots]; 0 for one that it does not see."""
    T, _, _, K, _ = scales.shape
    by_slot = jnp.where(visible[..., None], scales.reshape(T, -1, K), 0)
    return by_slot.astype(jnp.float32).transpose(0, 2, 1)[:, :, None]
