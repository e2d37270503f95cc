"""Paged attention as plainly as it can be written: every token against every slot of its pages."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flaxen.kernels.paged_attention.batch import KvPages, PagedBatch
from flaxen.kernels.paged_attention.write import write_pages


def paged_attention(
    q: Float[Array, "T N H"],
    k: Float[Array, "T K H"],
    v: Float[Array, "T K H"],
    cache: KvPages,
    batch: PagedBatch,
    *,
    window: int | None = None,
) -> tuple[Float[Array, "T N H"], KvPages]:
    """Writes the new keys and values to their pages, then attends over the pages.

    Args:
      q: [T, N, H] queries.
      k: [T, K, H] new keys; N is a multiple of K.
      v: [T, K, H] new values.
      cache: keys and values, [pages, page size, K, H] each.
      batch: which token belongs where.
      window: the number of tokens seen, the current one included; None sees all.

    Returns:
      [T, N, H] in q's dtype (padding tokens: unspecified, finite), and the updated cache.
    """
    T, N, H = q.shape
    cache = write_pages(k, v, cache, batch)
    k_pages, v_pages = cache
    K = k_pages.shape[2]
    sequences, positions = batch.token_sequences(T), batch.token_positions(T)
    tables = batch.page_table[sequences]
    keys = k_pages[tables].reshape(T, -1, K, H)
    values = v_pages[tables].reshape(T, -1, K, H)
    slots = jnp.arange(keys.shape[1])
    distance = positions[:, None] - slots[None, :]
    visible = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    visible = visible.at[:, 0].set(visible[:, 0] | (positions < 0))  # padding: no 0 / 0
    grouped_q = q.reshape(T, K, N // K, H)
    scores = jnp.einsum("TKGH,TSKH->TKGS", grouped_q, keys, preferred_element_type=jnp.float32)
    scores = jnp.where(visible[:, None, None, :], scores * (H**-0.5), -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    values = jnp.where(visible[:, :, None, None], values, 0)  # stale slots may hold NaN
    out = jnp.einsum("TKGS,TSKH->TKGH", weights, values, preferred_element_type=jnp.float32)
    return out.reshape(T, N, H).astype(q.dtype), cache
