"""The Pallas kernel of paged attention for TPU: one program that walks query and key blocks.

A query block is a few tokens of one sequence. For each, the kernel walks the sequence's keys in
blocks at absolute positions, always in the same order, with a running softmax: a block that a token
does not see changes none of its bits. While one key block is computed, the pages of the next are on
their way from HBM, over the end of a query block and of a sequence.

New keys and values are put into the fetched block, and the tiles that they change are copied back
to their pages while the block is computed.

Deliberately does not know how the arrays are prepared: tpu.py. What is copied is in tpu_copies.py,
the softmax in tpu_softmax.py.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from flaxen.attention_kernels.paged_attention.tpu_copies import (
    Block,
    Refs,
    Sizes,
    divide,
    fetch_keys,
    fetch_tokens,
    find,
    for_heads,
    for_size,
    tile_copy,
    wait_for_all_writes,
    wait_for_keys,
    wait_for_out,
    wait_for_tokens,
)
from flaxen.attention_kernels.paged_attention.tpu_softmax import attend, begin, finish


def run(refs: Refs, sizes: Sizes, has_sinks: bool) -> None:
    """The kernel's body."""
    refs.num_writes[0] = 0
    refs.num_writes[1] = 0
    number = refs.blocks.number[0]

    @pl.when(number > 0)
    def _() -> None:
        block = find(refs, sizes, 0)
        fetch_tokens(refs, sizes, block)
        fetch_keys(refs, sizes, block, divide(block.low, sizes.key_block), 0)

    def block_step(index: jax.Array, buffer: jax.Array) -> jax.Array:
        block = find(refs, sizes, index)
        wait_for_tokens(refs, sizes, block)
        for_size(sizes, block, lambda size: begin(refs, sizes, size, has_sinks))
        last_key_block = divide(block.last, sizes.key_block)

        def key_step(at: jax.Array, buffer: jax.Array) -> jax.Array:
            wait_for_keys(refs, sizes, block, at, buffer)
            _write_new(refs, sizes, block, at, buffer)
            _fetch_following(refs, sizes, block, at, buffer)
            for_size(sizes, block, lambda size: attend(refs, sizes, size, block, at, buffer))
            return 1 - buffer

        first_key_block = divide(block.low, sizes.key_block)
        buffer = jax.lax.fori_loop(first_key_block, last_key_block + 1, key_step, buffer)

        @pl.when(index > 0)
        def _() -> None:
            wait_for_out(refs, sizes, find(refs, sizes, index - 1))

        for_size(sizes, block, lambda size: finish(refs, sizes, size, block))
        return buffer

    jax.lax.fori_loop(0, number, block_step, jnp.int32(0))
    wait_for_all_writes(refs, sizes)

    @pl.when(number > 0)
    def _() -> None:
        wait_for_out(refs, sizes, find(refs, sizes, number - 1))


def _fetch_following(refs: Refs, sizes: Sizes, block: Block, at: Any, buffer: Any) -> None:
    """Starts to fetch the key block after `at`: of this query block, or of the next one."""
    is_last = at == divide(block.last, sizes.key_block)
    index = block.index + is_last.astype(jnp.int32)
    following = find(refs, sizes, index)

    @pl.when(is_last & (index < refs.blocks.number[0]))
    def _() -> None:
        @pl.when(following.owner == block.owner)
        def _() -> None:  # it reads the pages that this block writes
            wait_for_all_writes(refs, sizes)

        fetch_tokens(refs, sizes, following)

    @pl.when(index < refs.blocks.number[0])
    def _() -> None:
        first = divide(following.low, sizes.key_block)
        fetch_keys(refs, sizes, following, jnp.where(is_last, first, at + 1), 1 - buffer)


def _write_new(refs: Refs, sizes: Sizes, block: Block, at: Any, buffer: Any) -> None:
    """Puts the new keys and values into key block `at`, and starts to copy them to their pages."""
    tile, start = sizes.tile, at * sizes.key_block
    first_tile = divide(jnp.maximum(block.first, start), tile)
    last = jnp.minimum(block.last, start + sizes.key_block - 1)

    def step(index: jax.Array, _: None) -> None:
        position = index * tile
        page = divide(position - start, sizes.page_size)
        offset = pl.multiple_of(jax.lax.rem(position, jnp.int32(sizes.page_size)), tile)
        rows = position + jax.lax.broadcasted_iota(jnp.int32, (tile, 1), 0)
        is_new = (rows >= block.first) & (rows <= block.last)
        # The buffer has room for a tile on both sides, of any content.
        tokens = pl.ds(tile + position - block.first, tile)

        def put(head: Any) -> None:
            new = refs.new_buffer[block.index & 1, tokens, head].reshape(tile, -1)
            old = refs.kv_buffer[buffer, page, head, pl.ds(offset, tile)].astype(jnp.float32)
            merged = jnp.where(is_new, new, old).astype(refs.kv_buffer.dtype)
            refs.kv_buffer[buffer, page, head, pl.ds(offset, tile)] = merged

        for_heads(sizes, put)
        found = refs.table[block.owner * sizes.max_pages + divide(position, sizes.page_size)]
        tile_copy(refs, sizes, buffer, page, found, offset).start()
        refs.num_writes[buffer] += 1

    jax.lax.fori_loop(first_tile, divide(last, tile) + 1, step, None)
