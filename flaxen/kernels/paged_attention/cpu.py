"""Paged attention by the C++ kernel, over pages in that kernel's own layout.

Deliberately does not know the algorithm: csrc/attention.inc.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from flaxen.kernels import cpu_library, derivatives
from flaxen.kernels.attention_mask import check_scores
from flaxen.kernels.paged_attention import cpu_scaled, reference
from flaxen.kernels.paged_attention.batch import CpuPages, KvPages, PagedBatch
from flaxen.kernels.paged_attention.cpu_scaled import numbers_per_token
from flaxen.kernels.paged_attention.scales import is_scaled, refuse_derivative

PAGE_AXES = (None, None, "kv_heads", None)
PAGE_MULTIPLE = 16  # tokens: a page is a whole number of key groups
PAGE_DTYPES = (jnp.float32, jnp.bfloat16, jnp.int8, jnp.float8_e4m3fn)


def empty_pages(
    num_pages: int,
    page_size: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: jnp.dtype,
    value_dim: int | None = None,
) -> CpuPages:
    """Makes a layer's pages, with keys and values in one array.

    A page takes memory only when a step first writes to it.

    With r = 4 / itemsize numbers in a 32-bit word, a page has a kv head's keys as [head_dim / r,
    page_size, r] and its values as [page_size / r, value_dim, r]. Pages of eight bits are in
    cpu_scaled.py.

    Args:
      num_pages: the number of pages.
      page_size: tokens, a multiple of 16.
      num_kv_heads: K.
      head_dim: H, even.
      dtype: float32 or bfloat16; int8 or float8_e4m3fn, with scales.
      value_dim: V; None is H, and 0 keeps keys alone. With scales it must be H.

    Returns:
      [pages, 2, K, page_size * H] with keys and values, or page_size * (H + 2) with scales; if V
      is not H, each head's keys and values are one row, [pages, 1, K, page_size * (H + V)]. Of any
      content: no slot is read before a token is written to it.

    Raises:
      ValueError: the kernel does not support a size or the dtype.
    """
    _check_sizes(page_size, head_dim, jnp.dtype(dtype))
    is_apart = value_dim is None or value_dim == head_dim
    assert is_apart or not is_scaled(dtype), "pages with scales have keys and values of one size"
    per_token = numbers_per_token(head_dim, dtype)
    words = page_size * (per_token if is_apart else head_dim + (value_dim or 0))
    pages = jax.ShapeDtypeStruct((num_pages, 2 if is_apart else 1, num_kv_heads, words), dtype)
    # To pack a weight of no outputs writes nothing, so that the memory stays as the system mapped
    # it. XLA itself would fill it. It may not share one array between the layers either.
    return cpu_library.kernel("pack", pages, has_side_effect=True)(jnp.zeros((0, 0), dtype))  # type: ignore[no-any-return]


def has_heads(head_dim: int, dtype: jnp.dtype) -> bool:
    """Whether the kernel supports heads of this size and dtype."""
    return head_dim % 2 == 0 and jnp.dtype(dtype) in map(jnp.dtype, PAGE_DTYPES)


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
    _check_sizes(_page_size(pages, H, 0 if v is None else v.shape[2]), H, q.dtype)
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
    return _attend(q, k, v, pages, batch, sinks, options)


class Options(NamedTuple):
    """Options that are the same for all tokens."""

    window: int | None
    chunk: int | None
    scale: float
    softcap: float | None
    value_dim: int  # V


def _page_size(pages: CpuPages, head_dim: int, value_dim: int) -> int:
    """The tokens of a page, of keys of H numbers beside values of `value_dim`."""
    planes, _, words = pages.shape[1:]
    per_token = numbers_per_token(head_dim, pages.dtype)
    size = per_token if planes == 2 else head_dim + value_dim
    if words % size or (planes == 2) != (head_dim == value_dim):
        raise ValueError(
            f"pages of {planes} x {words} numbers a head do not hold heads of {head_dim} with "
            f"values of {value_dim}"
        )
    return int(words) // size


def to_reference(pages: CpuPages, head_dim: int, value_dim: int | None = None) -> KvPages:
    """Converts pages to the layout of `reference` and `blocked`, [pages, page_size, K, H or V].

    Args:
      pages: from `empty_pages`.
      head_dim: H.
      value_dim: as in `empty_pages`.
    """
    if is_scaled(pages.dtype):
        return cpu_scaled.to_reference(pages, head_dim)
    V = head_dim if value_dim is None else value_dim
    num_pages, planes, K, _ = pages.shape
    size = _page_size(pages, head_dim, V)
    pack = 4 // pages.dtype.itemsize
    found = [pages[:, 0, :, : size * head_dim], pages[:, planes - 1, :, -size * V :]]
    keys = found[0].reshape(num_pages, K, head_dim // pack, size, pack).transpose(0, 3, 1, 2, 4)
    keys = keys.reshape(num_pages, size, K, head_dim)
    if V == 0:
        return KvPages(keys, None)
    values = found[1].reshape(num_pages, K, size // pack, V, pack).transpose(0, 2, 4, 1, 3)
    return KvPages(keys, values.reshape(num_pages, size, K, V))


def from_reference(cache: KvPages) -> CpuPages:
    """The inverse of `to_reference`."""
    if cache.key_scales is not None:
        return cpu_scaled.from_reference(cache)
    num_pages, page_size, K, H = cache.keys.shape
    pack = 4 // cache.keys.dtype.itemsize
    keys = cache.keys.reshape(num_pages, page_size, K, H // pack, pack).transpose(0, 2, 3, 1, 4)
    parts = [keys.reshape(num_pages, K, -1)]
    if cache.values is not None:
        values = cache.values.reshape(num_pages, page_size // pack, pack, K, -1)
        parts.append(values.transpose(0, 3, 1, 4, 2).reshape(num_pages, K, -1))
    if len(parts) == 2 and parts[0].shape == parts[1].shape:
        return jnp.stack(parts, axis=1)
    return jnp.concatenate(parts, axis=-1)[:, None]


def _check_sizes(page_size: int, head_dim: int, dtype: jnp.dtype) -> None:
    if page_size < 1 or page_size % PAGE_MULTIPLE:
        raise ValueError(
            f"the C++ kernel needs a page size that is a multiple of {PAGE_MULTIPLE}, "
            f"got {page_size}"
        )
    if head_dim % 2:
        raise ValueError(f"the C++ kernel needs an even head dimension, got {head_dim}")
    if jnp.dtype(dtype) not in map(jnp.dtype, PAGE_DTYPES):
        raise ValueError(
            f"the C++ kernel has float32 and bfloat16, and pages of int8 and float8_e4m3fn, not "
            f"{dtype}"
        )


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array | None,
    pages: jax.Array,
    batch: PagedBatch,
    sinks: jax.Array | None,
    options: Options,
) -> tuple[jax.Array, jax.Array]:
    return _call(q, k, v, pages, batch, sinks, options)


def _call(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array | None,
    pages: jax.Array,
    batch: PagedBatch,
    sinks: jax.Array | None,
    options: Options,
) -> tuple[jax.Array, jax.Array]:
    (T, N, H), (_, planes, K, words) = q.shape, pages.shape
    out = jax.ShapeDtypeStruct((T, N, options.value_dim), q.dtype)
    call = cpu_library.kernel(
        "attention",
        (out, jax.ShapeDtypeStruct(pages.shape, pages.dtype)),
        input_output_aliases={3: 1},
    )
    page_size = _page_size(pages, H, 0 if v is None else v.shape[2])
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


_Kept = tuple[jax.Array, jax.Array, jax.Array | None, jax.Array, PagedBatch, jax.Array | None]


def _forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array | None,
    pages: jax.Array,
    batch: PagedBatch,
    sinks: jax.Array | None,
    options: Options,
) -> tuple[tuple[jax.Array, jax.Array], _Kept]:
    if is_scaled(pages.dtype):
        refuse_derivative(pages.dtype)
    kept = (q, k, v, pages, batch, sinks)
    outs: tuple[jax.Array, jax.Array] = derivatives.call(_call, _reference, kept, (options,))
    return outs, kept


def _reference(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array | None,
    pages: jax.Array,
    batch: PagedBatch,
    sinks: jax.Array | None,
    options: Options,
) -> tuple[jax.Array, jax.Array]:
    value_dim = 0 if v is None else v.shape[2]
    cache = to_reference(pages, q.shape[2], value_dim)
    out, cache = reference.paged_attention(
        *(q, k, v, cache, batch), **options._asdict(), sinks=sinks
    )
    return out, from_reference(cache)


def _backward(
    options: Options, kept: _Kept, gradients: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array | None, ...]:
    q, k, v, pages, batch, sinks = kept

    def attend(
        q: jax.Array, k: jax.Array, v: jax.Array | None, pages: jax.Array, sinks: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        return _reference(q, k, v, pages, batch, sinks, options)

    _, pull_back = jax.vjp(attend, q, k, v, pages, sinks)
    q_bar, k_bar, v_bar, pages_bar, sinks_bar = pull_back(gradients)
    return q_bar, k_bar, v_bar, pages_bar, None, sinks_bar


_attend.defvjp(_forward, _backward)
