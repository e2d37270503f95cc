"""Paged attention by the C++ kernel.

Deliberately does not know the layout of its pages, which `cpu_pages` has, or the algorithm:
csrc/attention.inc.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Float32

from flaxen.attention_kernels.mask import check_scores
from flaxen.attention_kernels.paged_attention import reference
from flaxen.attention_kernels.paged_attention.cpu_pages import (
    check_sizes,
    from_reference,
    page_size_of,
    to_reference,
)
from flaxen.attention_kernels.paged_attention.pages import CpuPages
from flaxen.attention_kernels.paged_attention.scales import is_scaled, refuse_derivative
from flaxen.kernels import cpu_library, derivatives
from flaxen.kernels.paged_batch import PagedBatch


def paged_attention(
    q: Float[Array, "T N H"],
    k: Float[Array, "T K H"],
    v: Float[Array, "T K V"] | None,
    pages: CpuPages,
    batch: PagedBatch,
    *,
    window: int | None = None,
    chunk: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Float32[Array, N] | None = None,
    value_dim: int | None = None,
) -> tuple[Float[Array, "T N V"], CpuPages]:
    """Like `reference.paged_attention`, over `empty_pages`; in place if the pages are donated.

    Sums and softmax are float32, and only the result is rounded to q's dtype. A token's bits depend
    on its own sequence only. Tokens for which the page table has no room get zeros, and table
    entries that are not valid pages are never written to.

    The gradient is the reference's, which gathers all slots of each token: for short contexts.

    Raises:
      ValueError: dtypes differ (pages with scales have their own), the kernel does not support a
          size or dtype, an option is invalid, or a derivative is taken over pages with scales.
      RuntimeError: the kernels were not built.
    """
    T, N, H = q.shape
    K = pages.shape[2]
    for name, found in (
        ("k", k.dtype),
        ("v", v if v is None else v.dtype),
        ("the pages", None if is_scaled(pages.dtype) else pages.dtype),
    ):
        if found is not None and found != q.dtype:
            raise ValueError(f"{name} must have q's dtype, {q.dtype}, but is {found}: cast it")
    V = value_dim if v is None else v.shape[2]
    check_sizes(page_size_of(pages, H, 0 if v is None else v.shape[2]), H, q.dtype)
    # The kernel would read beyond the end of arrays that are too small.
    sinks_shape = (N,) if sinks is None else sinks.shape
    v_shape = (T, K, V) if v is None else v.shape
    if k.shape != (T, K, H) or v_shape != (T, K, V) or N % K or sinks_shape != (N,):
        raise ValueError(
            f"q {q.shape} does not go with k {k.shape}, v {v_shape}, pages of {K} heads and sinks "
            f"{sinks_shape}: they are [T, N, H], [T, K, H], [T, K, V] and [N], with N a multiple "
            "of K"
        )
    check_scores(window, chunk, softcap)
    assert V is not None
    options = Options(window, chunk, float(H**-0.5 if scale is None else scale), softcap, V)
    operands = _Operands(q, k, v, pages, batch, sinks)
    out: tuple[jax.Array, jax.Array] = derivatives.with_gradient(
        _call, _reference, (operands,), (options,)
    )
    return out


class Options(NamedTuple):
    """Options that are the same for all tokens."""

    window: int | None
    chunk: int | None
    scale: float
    softcap: float | None
    value_dim: int  # V


class _Operands(NamedTuple):
    """The arrays, as `paged_attention` has them."""

    q: jax.Array
    k: jax.Array
    v: jax.Array | None
    pages: jax.Array
    batch: PagedBatch
    sinks: jax.Array | None


def _call(operands: _Operands, options: Options) -> tuple[jax.Array, jax.Array]:
    q, k, v, pages, batch, sinks = operands
    (T, N, H), (_, planes, K, words) = q.shape, pages.shape
    out = jax.ShapeDtypeStruct((T, N, options.value_dim), q.dtype)
    call = cpu_library.kernel(
        "attention",
        (out, jax.ShapeDtypeStruct(pages.shape, pages.dtype)),
        input_output_aliases={3: 1},
    )
    page_size = page_size_of(pages, H, 0 if v is None else v.shape[2])
    attended, new_pages = call(
        *(q, k, k if v is None else v, pages, *batch),
        *(() if sinks is None else (sinks,)),
        page_size=np.int64(page_size),
        has_values=v is not None,
        # From a page to the next, from a head to the next, and from its keys to its values.
        strides=np.array([planes * K * words, words, K * words if planes == 2 else page_size * H]),
        window=np.int64(options.window or 0),
        chunk=np.int64(options.chunk or 0),
        scale=np.float32(options.scale),
        softcap=np.float32(options.softcap or 0),
    )
    return attended, new_pages


def _reference(operands: _Operands, options: Options) -> tuple[jax.Array, jax.Array]:
    """The same by the reference, for derivatives."""
    q, k, v, pages, batch, sinks = operands
    if is_scaled(pages.dtype):
        refuse_derivative(pages.dtype)
    cache = to_reference(pages, q.shape[2], 0 if v is None else v.shape[2])
    out, cache = reference.paged_attention(
        *(q, k, v, cache, batch), **options._asdict(), sinks=sinks
    )
    return out, from_reference(cache)
