"""Divides a step's tokens into tiles for a GPU, and the keys of a tile into splits (decision 0268).

All of it follows from shapes, so that it is known when a step is compiled. Deliberately does not
know the arithmetic: gpu_kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flaxen.kernels.paged_batch import PagedBatch


class Blocks(NamedTuple):
    """The blocks in which a program goes over the keys of its tile."""

    keys: int  # of a block
    warps: int  # of a program that has a tile of at most 64 rows; twice as many beyond


# By the head size, rounded up to a power of two. Nothing here was tuned on a card.
BLOCKS: Mapping[int, Blocks] = {
    16: Blocks(keys=128, warps=4),
    32: Blocks(keys=128, warps=4),
    64: Blocks(keys=128, warps=4),
    128: Blocks(keys=64, warps=4),
    256: Blocks(keys=32, warps=8),
}
# A Hopper SM has 227 KiB of shared memory. This much of it holds the blocks that are being fetched,
# which leaves room for the queries and the weights.
STAGE_BYTES = 128 * 2**10
_DECODE_ROWS = 16  # the fewest of a tensor core's product
_PREFILL_ROWS = 128
_INVARIANT_ROWS = 64  # the fewest of a product by a warp group (wgmma)
_DECODE_SPLIT = 256  # keys
_INVARIANT_SPLIT = 512
# Splits are shared out until there are this many programs: eight for each SM of an H100.
_PROGRAMS = 1056
_MAX_SCRATCH_BYTES = 128 * 2**20  # of what the splits of a layer leave to be merged


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The tiles and splits of a step: all of it follows from shapes, so it is compiled."""

    rows: int  # of a tile
    split: int  # keys of a split; 0 for one split of all keys
    programs: int  # that share the splits of a tile; 1 merges them without memory in between
    num_tiles: int
    num_splits: int  # the most that a token has


def schedule(
    *,
    num_tokens: int,
    num_seqs: int,
    num_heads: tuple[int, int],
    head_dim: int,
    max_len: int,
    window: int | None,
    is_invariant: bool,
) -> Schedule:
    """Chooses how a step of a shape is computed.

    Args:
      num_tokens: T.
      num_seqs: S. Where it equals T, the step is taken to be one that decodes.
      num_heads: N and K.
      head_dim: H.
      max_len: the longest sequence that the page tables have room for.
      window: as in `paged_attention`.
      is_invariant: if so, tile and split are the same for all T and S.
    """
    N, K = num_heads
    decodes = num_tokens == num_seqs
    if is_invariant:
        rows, split = _INVARIANT_ROWS, _INVARIANT_SPLIT
    elif decodes:
        rows, split = _DECODE_ROWS, _DECODE_SPLIT
    else:
        rows, split = (_PREFILL_ROWS if head_dim <= 128 else 64), 0
    rows = max(rows, next_power_of_two(N // K))
    tokens = rows // (N // K)
    # A sequence's last tile may have room; the tokens of padding are a sequence too.
    num_tiles = min(num_tokens, num_tokens // tokens + num_seqs + 1)
    alone = Schedule(rows=rows, split=split, programs=1, num_tiles=num_tiles, num_splits=1)
    wanted = -(-_PROGRAMS // (num_tiles * K))
    token_bytes = 4 * N * (next_power_of_two(head_dim) + 2)
    while split:
        num_splits = _most_splits(split, max_len, window)
        programs = min(wanted, num_splits)
        if programs < 2:
            break
        if num_tokens * num_splits * token_bytes <= _MAX_SCRATCH_BYTES:
            return replace(alone, split=split, programs=programs, num_splits=num_splits)
        if is_invariant:
            break
        split *= 2
    return replace(alone, split=split)


def _most_splits(split: int, max_len: int, window: int | None) -> int:
    """The most splits that one token sees."""
    most = -(-max_len // split)
    return most if window is None else min(most, (window + split - 2) // split + 1)


def divide(batch: PagedBatch, num_tokens: int, tokens: int, num_tiles: int) -> jax.Array:
    """Divides the tokens into tiles of one sequence each, in order.

    Args:
      batch: the sequences of the tokens.
      num_tokens: T.
      tokens: the most tokens of a tile.
      num_tiles: at least as many as are needed.

    Returns:
      [tiles, 4]: the first token, how many, the sequence, the position of the first. The tokens of
      padding come last, at positions below 0; further tiles have no tokens.
    """
    S = batch.kv_lens.shape[0]
    starts = batch.cu_q_lens
    lengths = jnp.diff(starts, append=num_tokens)  # [S + 1], with those of padding
    ends = jnp.cumsum(-(-lengths // tokens))
    ids = jnp.arange(num_tiles, dtype=jnp.int32)
    owners = jnp.searchsorted(ends, ids, side="right", method="compare_all")
    owners = jnp.minimum(owners, S)
    offsets = (ids - jnp.where(owners > 0, ends[owners - 1], 0)) * tokens
    counts = jnp.clip(lengths[owners] - offsets, 0, tokens)
    kept = jnp.append(batch.kv_lens - lengths[:S], 0)  # tokens of earlier steps
    first = jnp.where(owners < S, kept[owners] + offsets, -num_tokens)
    sequences = jnp.minimum(owners, S - 1)
    return jnp.stack([starts[owners] + offsets, counts, sequences, first], axis=1)


def next_power_of_two(size: int) -> int:
    """The smallest power of two that is at least the size."""
    return 1 << (size - 1).bit_length()
