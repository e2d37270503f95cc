"""Paged attention on a TPU by tokamax, a library of kernels that is kept and tuned elsewhere.

Its op wants the decoding sequences of a step before all others, so the step is put into that order
and its result back. Deliberately does not know when it is chosen: kernels/choice.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

from flaxen.attention_kernels.paged_attention.pages import TokamaxPages
from flaxen.kernels.paged_batch import PagedBatch

PAGE_MULTIPLE = 16  # tokens
PAGE_AXES = (None, None, "kv_heads", None)
_LANES = 128
_HEADS = (64, 128, 256)  # sizes
_OURS = "pip uninstall tokamax, or backend='tpu' in Python"


def has_heads(head_dim: int, dtype: jnp.dtype) -> bool:
    """Whether tokamax is used for heads of this size and dtype: those that were compiled."""
    return head_dim in _HEADS and dtype == jnp.bfloat16


def empty_pages(
    num_pages: int, page_size: int, num_kv_heads: int, head_dim: int, dtype: jnp.dtype
) -> TokamaxPages:
    """Makes a layer's pages, filled with zeros: [pages, page_size, 2K, lanes].

    The key and the value of a head are neighbours on the axis of the heads, so that a mesh that
    divides K divides it.

    Raises:
      ValueError: heads or pages that tokamax is not used for.
    """
    if not has_heads(head_dim, dtype):
        raise ValueError(
            f"tokamax is used for heads of {', '.join(map(str, _HEADS))} numbers in bfloat16, not "
            f"for {head_dim} in {jnp.dtype(dtype).name}: use flaxen's own kernel: "
            f"{_OURS}"
        )
    lanes = -(-head_dim // _LANES) * _LANES
    return jnp.zeros((num_pages, page_size, 2 * num_kv_heads, lanes), dtype)


def paged_attention(
    q: Float[Array, "T N H"],
    k: Float[Array, "T K H"],
    v: Float[Array, "T K H"],
    pages: TokamaxPages,
    batch: PagedBatch,
    *,
    window: int | None = None,
    chunk: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Float32[Array, N] | None = None,
    run: Callable[..., tuple[jax.Array, jax.Array]] | None = None,
) -> tuple[Float[Array, "T N H"], TokamaxPages]:
    """Like `reference.paged_attention`, over `empty_pages`.

    Args:
      q: as in the reference, like k, v, batch, window, scale and softcap.
      pages: from `empty_pages`.
      chunk: None.
      sinks: None.
      run: tokamax's op, or another with its signature; None is its kernel for TPUs.

    Raises:
      ValueError: sinks or chunks, which tokamax does not have.
    """
    if sinks is not None:
        raise ValueError(f"tokamax has no attention sinks: use flaxen's own kernel: {_OURS}")
    if chunk is not None:
        raise ValueError(f"tokamax has no chunked attention: use flaxen's own kernel: {_OURS}")
    T, _, H = q.shape
    order = _decodes_first(batch, T)
    out, pages = (_kernel() if run is None else run)(
        *(x[order.tokens] for x in (q, k, v)),
        pages,
        order.batch.kv_lens,
        order.batch.page_table.reshape(-1),
        order.batch.cu_q_lens,
        order.distribution,
        sm_scale=float(H**-0.5 if scale is None else scale),
        sliding_window=window,
        soft_cap=softcap,
    )
    is_token = (jnp.arange(T) < batch.cu_q_lens[-1])[:, None, None]
    back = jnp.zeros_like(out).at[order.tokens].set(out, unique_indices=True)
    return jnp.where(is_token, back, 0).astype(q.dtype), pages


def _kernel() -> Callable[..., tuple[jax.Array, jax.Array]]:
    from tokamax import ops  # a second, and not installed everywhere

    return functools.partial(ops.ragged_paged_attention, implementation="mosaic_tpu")


class _Order(NamedTuple):
    """A batch whose decoding sequences come first."""

    batch: PagedBatch
    tokens: Int32[Array, T]  # the place of each of its tokens in the batch before
    # [3] where the decoding sequences end, those that only prefill, and all: of the second kind,
    # which have nothing in pages yet, none is told apart.
    distribution: Int32[Array, 3]


def _decodes_first(batch: PagedBatch, T: int) -> _Order:
    q_lens = jnp.diff(batch.cu_q_lens)
    # Sequences without tokens last, and otherwise in the order that they had.
    kind = jnp.where(q_lens == 0, 2, jnp.where(q_lens == 1, 0, 1))
    sequences = jnp.argsort(kind, stable=True).astype(jnp.int32)
    ends = jnp.cumsum(q_lens[sequences])
    ordered = PagedBatch(
        batch.kv_lens[sequences],
        batch.page_table[sequences],
        jnp.concatenate([jnp.zeros(1, jnp.int32), ends]).astype(jnp.int32),
    )
    rows = jnp.arange(T, dtype=jnp.int32)
    owner = ordered.token_sequences(T)
    moved = batch.cu_q_lens[sequences[owner]] + rows - ordered.cu_q_lens[owner]
    tokens = jnp.where(rows < ends[-1], moved, rows)  # padding stays where it is
    num_decodes, num_sequences = jnp.sum(kind == 0), jnp.sum(kind < 2)
    distribution = jnp.stack([num_decodes, num_decodes, num_sequences]).astype(jnp.int32)
    return _Order(ordered, tokens.astype(jnp.int32), distribution)
