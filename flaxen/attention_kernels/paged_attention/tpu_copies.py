"""The copies between HBM and VMEM of the TPU kernel of paged attention, and the waits for them.

A copy is waited for by a descriptor of the same size on the same semaphore. Deliberately does not
compute anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES = 128


class QueryBlocks(NamedTuple):
    """The query blocks of a step, in the order of their tokens: arrays of scalars."""

    number: Any  # [1] how many there are
    owners: Any  # the sequence of each
    starts: Any  # the first token of each, in the row of tokens
    positions: Any  # the position of that token in its sequence
    counts: Any  # tokens


class Refs(NamedTuple):
    """The arrays that the kernel reads and writes, in the order of its arguments."""

    blocks: QueryBlocks
    table: Any  # [S * P] page ids
    q: Any  # [T + block, K, G, key lanes] float32
    new: Any  # [T + block, K, 1, lanes] float32: keys and values to write
    sinks: Any  # [K, G, LANES]
    out: Any  # [T + block, K, G, value lanes] float32
    pages: Any  # [pages, K, page_size, lanes], read and written
    q_buffer: Any  # [2, block, K, G, key lanes]
    new_buffer: Any  # [2, block + 2 tiles, K, 1, lanes]
    out_buffer: Any  # [block, K, G, value lanes]
    kv_buffer: Any  # [2, pages of a key block, K, page_size, lanes]
    maximum: Any  # [K, block * G, LANES]
    total: Any  # [K, block * G, LANES]
    acc: Any  # [K, block * G, value lanes]
    num_writes: Any  # [2] copies to pages that have not ended, by kv buffer
    q_arrived: Any  # [2] semaphores
    kv_arrived: Any  # [2]
    written: Any  # [2]
    out_written: Any  # [1]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes that are the same for all tokens: static in the compiled kernel."""

    num_kv_heads: int
    heads_per_kv_head: int
    page_size: int  # tokens
    max_pages: int  # of a sequence
    query_block: int  # tokens
    key_block: int  # tokens
    tile: int  # tokens that are written to a page at once
    key_lanes: int  # of a row of the pages: [0, key_lanes) meet the query
    value_start: int  # the lanes from here on are summed
    window: int | None
    chunk: int | None
    scale: float
    softcap: float | None
    compute_dtype: jnp.dtype
    heads_at_once: int  # kv heads, a divisor of their number

    @property
    def pages_per_block(self) -> int:
        return self.key_block // self.page_size

    @property
    def precision(self) -> jax.lax.Precision:
        is_wide = self.compute_dtype == jnp.float32
        return jax.lax.Precision.HIGHEST if is_wide else jax.lax.Precision.DEFAULT


class Block(NamedTuple):
    """One query block: scalars."""

    index: Any
    owner: Any
    start: Any
    first: Any  # the position of its first token
    last: Any  # the position of its last token
    low: Any  # the first position that any of its tokens sees
    count: Any


def divide(number: Any, by: int) -> Any:
    """number // by, for numbers that are not negative: of one instruction."""
    return jax.lax.div(jnp.int32(number), jnp.int32(by))


def find(refs: Refs, sizes: Sizes, index: Any) -> Block:
    blocks = refs.blocks
    first, count = blocks.positions[index], blocks.counts[index]
    low = jnp.int32(0) if sizes.window is None else jnp.maximum(first - sizes.window + 1, 0)
    if sizes.chunk is not None:
        low = jnp.maximum(low, divide(first, sizes.chunk) * sizes.chunk)
    return Block(
        index=index,
        owner=blocks.owners[index],
        start=blocks.starts[index],
        first=first,
        last=first + count - 1,
        low=low,
        count=count,
    )


def for_size(sizes: Sizes, block: Block, do: Callable[[int], None]) -> None:
    """Calls do(tokens): a decode computes one token, not as many as a block of a prefill has."""
    if sizes.query_block == 1:
        do(1)
        return
    pl.when(block.count == 1)(lambda: do(1))
    pl.when(block.count > 1)(lambda: do(sizes.query_block))


def for_heads(sizes: Sizes, do: Callable[[Any], None]) -> None:
    """Calls do(head); a few heads at once, whose instructions the compiler can interleave."""
    at_once = sizes.heads_at_once

    def step(index: jax.Array, _: None) -> None:
        for each in range(at_once):
            do(index * at_once + each)

    jax.lax.fori_loop(0, sizes.num_kv_heads // at_once, step, None)


def _token_copies(refs: Refs, sizes: Sizes, block: Block, size: int) -> list[Any]:
    buffer = block.index & 1
    tokens = pl.ds(block.start, size)
    q = refs.q_buffer.at[buffer, pl.ds(0, size)]
    new = refs.new_buffer.at[buffer, pl.ds(sizes.tile, size)]
    arrived = refs.q_arrived.at[buffer]
    return [
        pltpu.make_async_copy(refs.q.at[tokens], q, arrived),
        pltpu.make_async_copy(refs.new.at[tokens], new, arrived),
    ]


def fetch_tokens(refs: Refs, sizes: Sizes, block: Block) -> None:
    def do(size: int) -> None:
        for copy in _token_copies(refs, sizes, block, size):
            copy.start()

    for_size(sizes, block, do)


def wait_for_tokens(refs: Refs, sizes: Sizes, block: Block) -> None:
    def do(size: int) -> None:
        for copy in _token_copies(refs, sizes, block, size):
            copy.wait()

    for_size(sizes, block, do)


def _for_pages(
    refs: Refs, sizes: Sizes, block: Block, at: Any, buffer: Any, do: Callable[[Any], None]
) -> None:
    """Calls do(copy) for the pages of key block `at` that hold a token which is seen.

    No other page is touched: those behind a window belong to other sequences.
    """
    per_block = sizes.pages_per_block
    begin = jnp.maximum(divide(block.low, sizes.page_size), at * per_block)
    end = jnp.minimum(divide(block.last, sizes.page_size) + 1, (at + 1) * per_block)

    def step(page: jax.Array, _: None) -> None:
        found = refs.table[block.owner * sizes.max_pages + page]
        target = refs.kv_buffer.at[buffer, page - at * per_block]
        do(pltpu.make_async_copy(refs.pages.at[found], target, refs.kv_arrived.at[buffer]))

    jax.lax.fori_loop(begin, end, step, None)


def fetch_keys(refs: Refs, sizes: Sizes, block: Block, at: Any, buffer: Any) -> None:
    wait_for_writes(refs, sizes, buffer)  # which are copied out of this buffer
    _for_pages(refs, sizes, block, at, buffer, lambda copy: copy.start())


def wait_for_keys(refs: Refs, sizes: Sizes, block: Block, at: Any, buffer: Any) -> None:
    _for_pages(refs, sizes, block, at, buffer, lambda copy: copy.wait())


def tile_copy(refs: Refs, sizes: Sizes, buffer: Any, page: Any, found: Any, offset: Any) -> Any:
    rows = pl.ds(pl.multiple_of(offset, sizes.tile), sizes.tile)
    return pltpu.make_async_copy(
        refs.kv_buffer.at[buffer, page, :, rows],
        refs.pages.at[found, :, rows],
        refs.written.at[buffer],
    )


def wait_for_writes(refs: Refs, sizes: Sizes, buffer: Any) -> None:
    def step(_: jax.Array, nothing: None) -> None:
        tile_copy(refs, sizes, buffer, 0, 0, 0).wait()

    jax.lax.fori_loop(0, refs.num_writes[buffer], step, None)
    refs.num_writes[buffer] = 0


def wait_for_all_writes(refs: Refs, sizes: Sizes) -> None:
    for buffer in (0, 1):
        wait_for_writes(refs, sizes, buffer)


def out_copy(refs: Refs, block: Block, size: int) -> Any:
    return pltpu.make_async_copy(
        refs.out_buffer.at[pl.ds(0, size)],
        refs.out.at[pl.ds(block.start, size)],
        refs.out_written.at[0],
    )


def wait_for_out(refs: Refs, sizes: Sizes, block: Block) -> None:
    for_size(sizes, block, lambda size: out_copy(refs, block, size).wait())
