"""The running softmax of the TPU kernel of paged attention, over key blocks in VMEM."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from flaxen.attention_kernels.paged_attention.tpu_copies import (
    LANES,
    Block,
    Refs,
    Sizes,
    divide,
    for_heads,
    out_copy,
)

_UNSEEN = -1e30  # the running maximum before any key: finite, so that differences are never NaN


def begin(refs: Refs, sizes: Sizes, size: int, has_sinks: bool) -> None:
    """The softmax before any key: empty, or a sink, which is a score without a value."""
    rows = size * sizes.heads_per_kv_head

    def do(head: Any) -> None:
        if has_sinks:
            sinks = jnp.broadcast_to(refs.sinks[head][None], (size, *refs.sinks.shape[1:]))
            refs.maximum[head, :rows] = sinks.reshape(rows, LANES)
        else:
            refs.maximum[head, :rows] = jnp.full((rows, LANES), _UNSEEN)
        refs.total[head, :rows] = jnp.full((rows, LANES), 1.0 if has_sinks else 0.0)
        refs.acc[head, :rows] = jnp.zeros((rows, refs.acc.shape[2]))

    for_heads(sizes, do)


def attend(refs: Refs, sizes: Sizes, size: int, block: Block, at: Any, buffer: Any) -> None:
    """Adds key block `at` to the running softmax of the block's tokens."""
    per_token = sizes.heads_per_kv_head
    rows = size * per_token
    # Row r is of token r // G: x <= r // G is the same as x * G <= r.
    row = jax.lax.broadcasted_iota(jnp.int32, (rows, sizes.key_block), 0)
    slot = jax.lax.broadcasted_iota(jnp.int32, (rows, sizes.key_block), 1)
    ahead = at * sizes.key_block + slot - block.first
    seen = (ahead * per_token <= row) & (row < block.count * per_token)
    if sizes.window is not None:
        seen &= row < (ahead + sizes.window) * per_token
    if sizes.chunk is not None:
        seen &= _in_chunk(row, ahead, sizes, size, block)
    slots = at * sizes.key_block + jax.lax.broadcasted_iota(jnp.int32, (sizes.key_block, 1), 0)
    is_filled = (slots >= block.low) & (slots <= block.last)

    def do(head: Any) -> None:
        q = refs.q_buffer[block.index & 1, :size, head].reshape(rows, -1)
        kv = refs.kv_buffer[buffer, :, head].reshape(sizes.key_block, -1).astype(jnp.float32)
        # Slots that no token sees may have old values of another sequence, even NaN, and 0 * NaN
        # is NaN.
        kv = jnp.where(is_filled, kv, 0).astype(sizes.compute_dtype)
        scores = jax.lax.dot_general(
            q.astype(sizes.compute_dtype),
            kv[:, : sizes.key_lanes],
            (((1,), (1,)), ((), ())),
            precision=sizes.precision,
            preferred_element_type=jnp.float32,
        )
        scores = scores * sizes.scale
        if sizes.softcap is not None:
            scores = sizes.softcap * jnp.tanh(scores / sizes.softcap)
        scores = jnp.where(seen, scores, -jnp.inf)
        old = refs.maximum[head, :rows, :1]
        new = jnp.maximum(old, jnp.max(scores, axis=1, keepdims=True))
        weights = jnp.exp(scores - new)
        rescale = jnp.exp(old - new)
        total = refs.total[head, :rows, :1] * rescale + jnp.sum(weights, axis=1, keepdims=True)
        values = jax.lax.dot_general(
            weights.astype(sizes.compute_dtype),
            kv[:, sizes.value_start :],
            (((1,), (0,)), ((), ())),
            precision=sizes.precision,
            preferred_element_type=jnp.float32,
        )
        refs.acc[head, :rows] = refs.acc[head, :rows] * rescale + values
        refs.maximum[head, :rows] = jnp.broadcast_to(new, (rows, LANES))
        refs.total[head, :rows] = jnp.broadcast_to(total, (rows, LANES))

    for_heads(sizes, do)


def _in_chunk(row: Any, ahead: Any, sizes: Sizes, size: int, block: Block) -> Any:
    """Whether tokens and keys are in the same chunk.

    Args:
      row: of the token, times the query heads of a KV head.
      ahead: how far the key is ahead of the block's first token.
      sizes: the compiled sizes.
      size: the tokens of the block.
      block: the block.
    """
    assert sizes.chunk is not None
    # How far the chunk of the first token began before it, and the chunks that begin in the block.
    begin = divide(block.first, sizes.chunk) * sizes.chunk - block.first
    same = ahead >= begin
    for nth in range(1, (size - 2) // sizes.chunk + 2):
        next_begin = begin + nth * sizes.chunk
        same &= (row < next_begin * sizes.heads_per_kv_head) | (ahead >= next_begin)
    return same


def finish(refs: Refs, sizes: Sizes, size: int, block: Block) -> None:
    """Starts to copy the result out; the next block overwrites what lies behind its tokens."""
    rows = size * sizes.heads_per_kv_head

    def do(head: Any) -> None:
        total = refs.total[head, :rows, :1]
        out = refs.acc[head, :rows] / jnp.where(total == 0, 1, total)  # 0 only behind the tokens
        refs.out_buffer[:size, head] = out.reshape(size, sizes.heads_per_kv_head, -1)

    for_heads(sizes, do)
    out_copy(refs, block, size).start()
