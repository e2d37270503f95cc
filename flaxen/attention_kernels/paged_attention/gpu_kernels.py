"""The Pallas kernels of `gpu`, lowered through Triton: for NVIDIA and for AMD.

A tile of queries is the tokens of one sequence times the query heads of one KV head. Its keys are
divided into splits at absolute positions; within a split a running softmax goes over blocks of
keys, and the results of the splits are merged in order. `attend_tiles` walks the splits of a tile
in one program; `attend_splits` gives them to several, and `merge_splits` merges what they wrote.
Both do the same operations in the same order, and a block or split that a token does not see
changes none of its bits. Deliberately does not know how tiles and splits are chosen.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from flaxen.attention_kernels.paged_attention.gpu_state import (
    LOG2_E,
    UNSEEN,
    Sizes,
    State,
    before_keys,
    empty,
    first_key,
    merged,
    normalised,
)

Ref = Any  # an array in the device's memory


class _Tile(NamedTuple):
    """A tile's rows; those without a token have the position -1."""

    sequence: jax.Array
    kv_head: jax.Array
    tokens: jax.Array  # [rows]
    heads: jax.Array  # [rows]
    positions: jax.Array  # [rows]
    is_row: jax.Array  # [rows] whether it is one of a token, perhaps a padding token
    low: jax.Array  # the first key that any row sees
    high: jax.Array  # one past the last


def attend_tiles(
    plan: Ref, table: Ref, q: Ref, cache: Ref, sinks: Ref, out: Ref, *, sizes: Sizes
) -> None:
    """Attends for one tile: all of its splits, one after the other.

    Args:
      plan: [tiles, 4] the first token of each tile, its tokens, its sequence, its first position.
      table: [S, P] page ids.
      q: [T, N, H].
      cache: KvPages of keys and values [pages, page size, K, H], and of scales [pages, page
          size, K, 1] if they have some.
      sinks: [N] float32, -inf for none.
      out: [T, N, H], written.
      sizes: the compiled sizes.
    """
    tile = _tile(plan, sizes)
    queries = _load_queries(q, tile, sizes)
    total = before_keys(sinks, tile.heads, tile.is_row, sizes.lanes)

    def one(split: jax.Array, total: State) -> State:
        own = _attend_split(table, cache, queries, tile, split, empty(sizes), sizes)
        return merged(total, own)

    if sizes.split == 0:
        total = _attend_split(table, cache, queries, tile, jnp.int32(0), total, sizes)
    else:
        first, num = _splits(tile, sizes)
        total = lax.fori_loop(first, first + num, one, total)
    _store(out, tile, normalised(total), sizes)


def attend_splits(
    plan: Ref,
    table: Ref,
    q: Ref,
    cache: Ref,
    maxima: Ref,
    sums: Ref,
    values: Ref,
    *,
    sizes: Sizes,
) -> None:
    """Attends for some splits of one tile: the third axis of the grid shares them out.

    Args:
      plan: as in `attend_tiles`, like table, q and cache.
      table: page ids.
      q: queries.
      cache: keys and values.
      maxima: [T, splits, N] float32, written, as are the next two; a token's first split is 0.
      sums: [T, splits, N] float32.
      values: [T, splits, N, lanes] float32.
      sizes: the compiled sizes.
    """
    tile = _tile(plan, sizes)
    queries = _load_queries(q, tile, sizes)
    first, num = _splits(tile, sizes)
    mine, programs = pl.program_id(2), pl.num_programs(2)
    own_first = lax.div(first_key(tile.positions, sizes), sizes.split)

    def one(i: jax.Array, _: jax.Array) -> jax.Array:
        split = first + mine + i * programs
        state = _attend_split(table, cache, queries, tile, split, empty(sizes), sizes)
        maximum, total, acc = state
        nth = split - own_first
        sees = (nth >= 0) & (split * sizes.split <= tile.positions)
        at = (tile.tokens, jnp.maximum(nth, 0), tile.heads)
        plgpu.store(maxima.at[at], maximum, mask=sees)
        plgpu.store(sums.at[at], total, mask=sees)
        lanes = jnp.arange(sizes.lanes)
        at_lanes = (*(each[:, None] for each in at), lanes[None])
        plgpu.store(values.at[at_lanes], acc, mask=sees[:, None] & (lanes >= 0)[None])
        return _

    lax.fori_loop(0, lax.div(num - mine + programs - 1, programs), one, jnp.int32(0))


def merge_splits(
    positions: Ref, maxima: Ref, sums: Ref, values: Ref, sinks: Ref, out: Ref, *, sizes: Sizes
) -> None:
    """Merges the splits of one token and KV head, in order.

    Args:
      positions: [T] int32; -1 for padding, whose result is zeros.
      maxima: as `attend_splits` wrote them, like sums and values.
      sums: see there.
      values: see there.
      sinks: as in `attend_tiles`.
      out: [T, N, H], written.
      sizes: the compiled sizes; its rows hold the query heads of a KV head.
    """
    token, kv_head = pl.program_id(0), pl.program_id(1)
    rows, lanes = jnp.arange(sizes.rows), jnp.arange(sizes.lanes)
    is_head = rows < sizes.group
    heads = kv_head * sizes.group + rows
    position = positions[token]
    num = jnp.where(
        position < 0,
        0,
        lax.div(position, sizes.split) - lax.div(first_key(position, sizes), sizes.split) + 1,
    )

    def one(i: jax.Array, total: State) -> State:
        at = (token, i, heads)
        maximum = plgpu.load(maxima.at[at], mask=is_head, other=UNSEEN)
        part = plgpu.load(sums.at[at], mask=is_head, other=0)
        at_lanes = values.at[token, i, heads[:, None], lanes[None]]
        acc = plgpu.load(at_lanes, mask=is_head[:, None] & (lanes >= 0)[None], other=0)
        return merged(total, (maximum, part, acc))

    before = before_keys(sinks, heads, is_head, sizes.lanes)
    total = lax.fori_loop(0, num, one, before)
    plgpu.store(
        out.at[token, heads[:, None], lanes[None]],
        normalised(total).astype(out.dtype),
        mask=is_head[:, None] & (lanes < sizes.head_dim)[None],
    )


def _tile(plan: Ref, sizes: Sizes) -> _Tile:
    tile, kv_head = pl.program_id(0), pl.program_id(1)
    start, num_tokens, sequence, first = (plan[tile, i] for i in range(4))
    rows = jnp.arange(sizes.rows)
    nth = lax.div(rows, sizes.group)
    is_token = nth < num_tokens
    last = first + num_tokens - 1  # below 0 for padding tokens
    return _Tile(
        sequence=sequence,
        kv_head=kv_head,
        # Rows without a token name later ones: no two rows have one place, which a masked store of
        # the interpreter would need.
        tokens=start + nth,
        heads=kv_head * sizes.group + rows - nth * sizes.group,
        positions=jnp.where(is_token & (first >= 0), first + nth, -1),
        is_row=is_token,
        low=first_key(first, sizes),
        high=jnp.where(first < 0, 0, last + 1),
    )


def _splits(tile: _Tile, sizes: Sizes) -> tuple[jax.Array, jax.Array]:
    """The first split that a tile sees, and the number of them."""
    first = lax.div(tile.low, sizes.split)
    return first, lax.div(tile.high + sizes.split - 1, sizes.split) - first


def _load_queries(q: Ref, tile: _Tile, sizes: Sizes) -> jax.Array:
    lanes = jnp.arange(sizes.lanes)
    return plgpu.load(
        q.at[tile.tokens[:, None], tile.heads[:, None], lanes[None]],
        mask=(tile.positions >= 0)[:, None] & (lanes < sizes.head_dim)[None],
        other=0,
    )


def _attend_split(
    table: Ref,
    cache: Ref,
    queries: jax.Array,
    tile: _Tile,
    split: jax.Array,
    state: State,
    sizes: Sizes,
) -> State:
    """A running softmax over the keys of one split, which begins with the given state."""
    low, high = tile.low, tile.high
    if sizes.split:
        low = jnp.maximum(low, split * sizes.split)
        high = jnp.minimum(high, (split + 1) * sizes.split)
    lanes = jnp.arange(sizes.lanes)
    is_lane = (lanes < sizes.head_dim)[None]

    def block(b: jax.Array, state: State) -> State:
        maximum, total, acc = state
        keys = b * sizes.keys + jnp.arange(sizes.keys)
        # Slots that no row sees may have old values of another sequence, even NaN: not loaded.
        is_key = (keys >= tile.low) & (keys < tile.high)
        nth = lax.div(keys, sizes.page_size)
        pages = plgpu.load(table.at[tile.sequence, nth], mask=is_key, other=0)
        slots = keys - nth * sizes.page_size
        at = (pages[:, None], slots[:, None], tile.kv_head, lanes[None])
        mask = is_key[:, None] & is_lane
        zero = jnp.zeros((), cache.keys.dtype)
        k_block = plgpu.load(cache.keys.at[at], mask=mask, other=zero).astype(queries.dtype)
        v_block = plgpu.load(cache.values.at[at], mask=mask, other=zero).astype(queries.dtype)
        scores = _dot(queries, k_block, trans_b=True)
        at_scale = (pages, slots, tile.kv_head, 0)
        if cache.key_scales is not None:
            scores = scores * _load_scales(cache.key_scales, at_scale, is_key)[None]
        if sizes.softcap is None:
            scores = scores * (sizes.scale * LOG2_E)
        else:
            capped = jnp.tanh(scores * (sizes.scale / sizes.softcap))
            scores = capped * (sizes.softcap * LOG2_E)
        distance = tile.positions[:, None] - keys[None]
        seen = distance >= 0
        if sizes.window is not None:
            seen = seen & (distance < sizes.window)
        if sizes.chunk is not None:
            seen = seen & (keys[None] >= first_key(tile.positions, sizes)[:, None])
        scores = jnp.where(seen, scores, -jnp.inf)
        new_maximum = jnp.maximum(maximum, jnp.max(scores, axis=1))
        weights = jnp.exp2(scores - new_maximum[:, None])
        rescale = jnp.exp2(maximum - new_maximum)
        total = total * rescale + jnp.sum(weights, axis=1)
        if cache.value_scales is not None:
            weights = weights * _load_scales(cache.value_scales, at_scale, is_key)[None]
        acc = acc * rescale[:, None] + _dot(weights.astype(queries.dtype), v_block)
        return new_maximum, total, acc

    last = lax.div(high + sizes.keys - 1, sizes.keys)
    state = lax.fori_loop(lax.div(low, sizes.keys), last, block, state)
    return state


def _load_scales(scales: Ref, at: tuple[Any, ...], mask: jax.Array) -> jax.Array:
    zero = jnp.zeros((), scales.dtype)
    return plgpu.load(scales.at[at], mask=mask, other=zero).astype(jnp.float32)


def _dot(a: jax.Array, b: jax.Array, *, trans_b: bool = False) -> jax.Array:
    """a @ b summed in float32; float32 operands are not rounded to TF32."""
    out: jax.Array = plgpu.dot(a, b, trans_b=trans_b, precision=lax.Precision.HIGHEST)
    return out


def _store(out: Ref, tile: _Tile, values: jax.Array, sizes: Sizes) -> None:
    """Writes the rows of a tile; those of padding tokens are zeros."""
    lanes = jnp.arange(sizes.lanes)
    plgpu.store(
        out.at[tile.tokens[:, None], tile.heads[:, None], lanes[None]],
        values.astype(out.dtype),
        mask=tile.is_row[:, None] & (lanes < sizes.head_dim)[None],
    )
