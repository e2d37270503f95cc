"""Paged attention in blocks, for XLA: used on every platform that has no kernel of its own.

The new tokens are split into query blocks of one sequence each. Groups of query blocks loop over
key blocks at absolute positions with a running softmax. Both loops run as often as the batch needs,
so one compiled shape serves every context length. A key block that a token does not see does not
change its result in any bit.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from flaxen.attention_kernels.mask import first_seen, sees
from flaxen.attention_kernels.paged_attention.pages import KvPages
from flaxen.attention_kernels.paged_attention.scales import SCALE_DTYPE, is_scaled
from flaxen.attention_kernels.paged_attention.write import write_pages
from flaxen.kernels.paged_batch import PagedBatch

KEY_BLOCK = 128  # tokens; a multiple of the page size
PAGE_AXES = (None, None, "kv_heads", None)  # of keys and of values
_UNSEEN = -1e30  # the running maximum before any key: finite, so that differences are never NaN


def empty_pages(
    num_pages: int,
    page_size: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: jnp.dtype,
    value_dim: int | None = None,
) -> KvPages:
    """Makes a layer's keys and values, [pages, page_size, K, H or V] each, filled with zeros.

    Args:
      num_pages: the number of pages.
      page_size: tokens, a divisor of KEY_BLOCK.
      num_kv_heads: K.
      head_dim: H.
      dtype: the dtype of keys and values; int8 and float8_e4m3fn have scales.
      value_dim: V; None is H, and 0 has keys alone.
    """
    value_dim = head_dim if value_dim is None else value_dim
    shape = (num_pages, page_size, num_kv_heads)
    values = jnp.zeros((*shape, value_dim), dtype) if value_dim else None
    keys = jnp.zeros((*shape, head_dim), dtype)
    if not is_scaled(dtype):
        return KvPages(keys, values)
    scales = (*shape, 1)
    return KvPages(keys, values, jnp.zeros(scales, SCALE_DTYPE), jnp.zeros(scales, SCALE_DTYPE))


def has_heads(head_dim: int, dtype: jnp.dtype) -> bool:
    """Whether XLA has heads of this size and dtype: it has all."""
    return True


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
    """Like `reference.paged_attention`.

    Raises:
      ValueError: the page size does not divide the key block.
    """
    T, N, H = q.shape
    cache = write_pages(k, v, cache, batch)
    page_size, K = cache.keys.shape[1:3]
    V = value_dim if v is None else v.shape[2]
    assert V is not None, "values that are a part of the keys have a size of their own"
    if KEY_BLOCK % page_size:
        raise ValueError(f"the page size must divide {KEY_BLOCK}, got {page_size}")
    pages_per_block = KEY_BLOCK // page_size
    page_table = jnp.pad(
        batch.page_table, ((0, 0), (0, -batch.page_table.shape[1] % pages_per_block))
    )
    block, group = (1, T) if T <= 64 else (16, 8)

    starts, owners, positions, ends = _query_blocks(batch, T, block, group)
    num_blocks = owners.shape[0]
    lanes = jnp.arange(block)
    grouped_q = q.reshape(T, K, N // K, H)

    def attend_group(g: jax.Array, out: jax.Array) -> jax.Array:
        mine = g * group + jnp.arange(group)
        rows = jnp.minimum(starts[mine][:, None] + lanes[None], T - 1)
        q_g = grouped_q[rows].transpose(0, 2, 1, 3, 4).reshape(group, K, -1, H)  # rows x heads
        position_g = positions[mine]
        table_g = page_table[owners[mine]]
        first = jnp.min(jnp.where(position_g < 0, jnp.iinfo(jnp.int32).max, position_g))
        low = first_seen(first, window, chunk) // KEY_BLOCK
        high = jnp.max(position_g) // KEY_BLOCK + 1

        def attend_block(b: jax.Array, softmax: _Softmax) -> _Softmax:
            pages = jax.lax.dynamic_slice_in_dim(table_g, b * pages_per_block, pages_per_block, 1)
            slots = b * KEY_BLOCK + jnp.arange(KEY_BLOCK)
            seen = sees(position_g[:, :, None], slots[None, None], window, chunk)
            keys = _key_block(cache, pages, jnp.any(seen, axis=1), V, q.dtype)
            scores = _scores(q_g, keys, seen, H**-0.5 if scale is None else scale, softcap)
            return _with_block(softmax, scores, keys)

        softmax = _before_keys((group, K, block * (N // K)), V, sinks)
        _, total, acc = jax.lax.fori_loop(low, high, attend_block, softmax)
        acc = acc / jnp.where(total == 0, 1, total)[..., None]  # 0 only for padding
        acc = acc.reshape(group, K, block, N // K, V).transpose(0, 2, 1, 3, 4)
        return jax.lax.dynamic_update_slice_in_dim(out, acc.astype(q.dtype), g * group, axis=0)

    out = jnp.zeros((num_blocks, block, K, N // K, V), q.dtype)
    if num_blocks == group:  # one group needs no loop, which would only take longer to compile
        out = attend_group(jnp.int32(0), out)
    else:
        num_groups = (ends[-1] + group - 1) // group
        out = jax.lax.fori_loop(0, num_groups, attend_group, out)

    return _of_tokens(out, batch, ends, T).reshape(T, N, V), cache


class _KeyBlock(NamedTuple):
    """For each query block of a group, one of its sequence's key blocks."""

    keys: jax.Array  # [group, slots, K, H]
    values: jax.Array  # [group, slots, K, V]
    key_scales: jax.Array | None  # [group, K, slots] float32
    value_scales: jax.Array | None


def _key_block(
    cache: KvPages, pages: jax.Array, is_seen: jax.Array, V: int, dtype: jnp.dtype
) -> _KeyBlock:
    """Reads pages [group, pages] in a dtype.

    Slots that no token sees, where is_seen [group, slots] is False, have zeros: there may be old
    values of another sequence, even NaN, and 0 * NaN is NaN.
    """
    group, K = pages.shape[0], cache.keys.shape[2]
    keys = cache.keys[pages].astype(dtype).reshape(group, KEY_BLOCK, K, -1)
    values = keys[..., :V]
    if cache.values is not None:
        values = cache.values[pages].astype(dtype).reshape(group, KEY_BLOCK, K, V)
    values = jnp.where(is_seen[:, :, None, None], values, 0)
    key_scales = None if cache.key_scales is None else _of_slots(cache.key_scales[pages])
    value_scales = None
    if cache.value_scales is not None:
        value_scales = jnp.where(is_seen[:, None], _of_slots(cache.value_scales[pages]), 0)
    return _KeyBlock(keys, values, key_scales, value_scales)


def _scores(
    q: jax.Array, keys: _KeyBlock, seen: jax.Array, scale: float, softcap: float | None
) -> jax.Array:
    """The scores [group, K, rows, slots] of queries [group, K, rows, H], -inf where unseen.

    A block's rows are those of its tokens, each with all heads that share a key; seen is
    [group, tokens, slots].
    """
    group, K = q.shape[:2]
    block = seen.shape[1]
    scores = jnp.einsum(
        "gKrH,gsKH->gKrs", q, keys.keys, preferred_element_type=jnp.float32
    ).reshape(group, K, block, -1, KEY_BLOCK)
    scores = scores * scale
    if keys.key_scales is not None:
        scores = scores * keys.key_scales[:, :, None, None]
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    scores = jnp.where(seen[:, None, :, None, :], scores, -jnp.inf)
    return scores.reshape(group, K, -1, KEY_BLOCK)


class _Softmax(NamedTuple):
    """A softmax over the key blocks so far, for rows of queries."""

    maximum: jax.Array  # [group, K, rows], of the scores
    total: jax.Array  # [group, K, rows], of the weights
    acc: jax.Array  # [group, K, rows, V], the weighted values


def _before_keys(shape: tuple[int, int, int], V: int, sinks: jax.Array | None) -> _Softmax:
    """The softmax before any key: of nothing, or of sinks [N], scores without a value."""
    group, K, rows = shape
    acc = jnp.zeros((*shape, V))
    if sinks is None:
        return _Softmax(jnp.full(shape, _UNSEEN), jnp.zeros(shape), acc)
    heads = sinks.size // K
    by_row = jnp.tile(sinks.reshape(1, K, heads), (group, 1, rows // heads))
    return _Softmax(by_row, jnp.ones(shape), acc)


def _with_block(softmax: _Softmax, scores: jax.Array, keys: _KeyBlock) -> _Softmax:
    """The softmax with the scores of one more key block."""
    maximum = jnp.maximum(softmax.maximum, jnp.max(scores, axis=-1))
    weights = jnp.exp(scores - maximum[..., None])
    rescale = jnp.exp(softmax.maximum - maximum)
    total = softmax.total * rescale + jnp.sum(weights, axis=-1)
    if keys.value_scales is not None:
        weights = weights * keys.value_scales[:, :, None]
    acc = softmax.acc * rescale[..., None] + jnp.einsum(
        "gKrs,gsKH->gKrH", weights.astype(keys.values.dtype), keys.values,
        preferred_element_type=jnp.float32,
    )  # fmt: skip
    return _Softmax(maximum, total, acc)


def _of_slots(scales: jax.Array) -> jax.Array:
    """The scales of a key block, [group, pages, page size, K, 1], as [group, K, slots]."""
    group, _, _, K, _ = scales.shape
    by_slot: jax.Array = scales.reshape(group, -1, K).astype(jnp.float32).transpose(0, 2, 1)
    return by_slot


class _QueryBlocks(NamedTuple):
    """Tokens split into blocks of one sequence each, in order; further blocks are padding."""

    starts: jax.Array  # [blocks] the first token of each block
    owners: jax.Array  # [blocks] the sequence of each block
    # [blocks, block] the position of each token in its sequence; -1 for padding.
    positions: jax.Array
    ends: jax.Array  # [S] the block after each sequence's last one


def _query_blocks(batch: PagedBatch, T: int, block: int, group: int) -> _QueryBlocks:
    """Splits the T tokens into blocks of at most `block`; their number is a multiple of `group`."""
    S = batch.kv_lens.shape[0]
    q_lens = jnp.diff(batch.cu_q_lens)
    ends = jnp.cumsum(-(-q_lens // block))
    num_blocks = -(-(T // block + (S if block > 1 else 0)) // group) * group
    ids = jnp.arange(num_blocks, dtype=jnp.int32)
    owners = jnp.minimum(jnp.searchsorted(ends, ids, side="right", method="compare_all"), S - 1)
    offsets = (ids - jnp.where(owners > 0, ends[owners - 1], 0)) * block
    lanes = jnp.arange(block)[None]
    is_token = (offsets[:, None] + lanes < q_lens[owners, None]) & (ids < ends[-1])[:, None]
    first_positions = batch.kv_lens[owners] - q_lens[owners] + offsets
    positions = jnp.where(is_token, first_positions[:, None] + lanes, -1)
    return _QueryBlocks(batch.cu_q_lens[owners] + offsets, owners, positions, ends)


def _of_tokens(out: jax.Array, batch: PagedBatch, ends: jax.Array, T: int) -> jax.Array:
    """The rows [T, ...] of the tokens, from those of query blocks [blocks, block, ...]."""
    num_blocks, block = out.shape[:2]
    sequences = batch.token_sequences(T)
    in_sequence = jnp.arange(T) - batch.cu_q_lens[sequences]
    first_block = jnp.where(sequences > 0, ends[sequences - 1], 0)
    blocks = jnp.minimum(first_block + in_sequence // block, num_blocks - 1)
    return out[blocks, in_sequence % block]
