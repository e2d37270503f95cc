"""Batches over shuffled pages, and inputs, for the tests of paged attention."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.attention_kernels.paged_attention import KvPages
from flaxen.kernels.paged_batch import PagedBatch
from tests.kernels.arrays import normal

Lengths = list[tuple[int, int]]  # (new tokens, all tokens) of each sequence

CASES: dict[str, tuple[Lengths, int, int]] = {  # and padded tokens and sequences
    "one decode": ([(1, 1)], 1, 1),
    "decodes": ([(1, 7), (1, 130), (1, 1), (1, 200), (1, 128)], 17, 8),
    "mixed": ([(5, 5), (1, 130), (8, 140), (2, 129), (64, 64), (17, 200)], 105, 8),
    "many": ([(1, 33)] * 30 + [(33, 90)], 64, 32),
    "nothing": ([], 5, 2),
}
# N, K, H and a page size.
HEADS = [
    (9, 3, 64, 16),
    (4, 1, 128, 128),
    (8, 1, 80, 48),
    (2, 2, 8, 32),
    (3, 3, 16, 64),
    (4, 1, 10, 16),
    (6, 2, 40, 16),
    (2, 1, 112, 32),
]
Options = dict[str, Any]
OPTIONS: dict[str, Options] = {
    "plain": {},
    "window": {"window": 50},
    "chunk": {"chunk": 48, "sinks": True},
    "all": {"window": 100, "scale": 0.3, "softcap": 2.0, "sinks": True},
}


def options_for(name: str, num_heads: int) -> Options:
    options = dict(OPTIONS[name])
    if options.pop("sinks", False):
        options["sinks"] = jnp.linspace(-2, 4, num_heads, dtype=jnp.float32)
    return options


def make_batch(
    lengths: Lengths, page_size: int, num_seqs: int, seed: int = 0
) -> tuple[PagedBatch, int]:
    """A batch over shuffled pages, and how many pages there are."""
    counts = [-(-kv_len // page_size) for _, kv_len in lengths]
    num_pages = sum(counts) + 3
    shuffled = np.random.default_rng(seed).permutation(num_pages)
    # What lies past a sequence's pages is not read: here no page at all.
    table = np.full((num_seqs, max([*counts, 1]) + 1), 10**9, np.int32)
    used = 0
    for row, count in enumerate(counts):
        table[row, :count] = shuffled[used : used + count]
        used += count
    padding = [0] * (num_seqs - len(lengths))
    return PagedBatch(
        jnp.asarray([*(kv_len for _, kv_len in lengths), *padding], jnp.int32),
        jnp.asarray(table),
        jnp.asarray(np.cumsum([0, *(q_len for q_len, _ in lengths), *padding]), jnp.int32),
    ), num_pages


def make_inputs(
    num_tokens: int, heads: tuple[int, int, int], num_pages: int, page_size: int, dtype: str
) -> tuple[jax.Array, jax.Array, jax.Array, KvPages]:
    N, K, H = heads
    pages = (num_pages, page_size, K, H)
    return (
        normal("q", num_tokens, N, H, dtype=dtype),
        normal("k", num_tokens, K, H, dtype=dtype),
        normal("v", num_tokens, K, H, dtype=dtype),
        KvPages(normal("keys", *pages, dtype=dtype), normal("values", *pages, dtype=dtype)),
    )


@functools.cache
def jitted(attend: Callable[..., Any]) -> Callable[..., Any]:
    static = {"window", "chunk", "scale", "softcap", "value_dim"}
    return jax.jit(attend, static_argnames=static & set(inspect.signature(attend).parameters))
