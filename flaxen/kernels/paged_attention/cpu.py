"""Paged attention by the C++ kernel, over pages in that kernel's own layout.

Deliberately does not know the algorithm: csrc/attention.inc.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from flaxen.kernels import cpu_library, derivatives
from flaxen.kernels.paged_attention import reference
from flaxen.kernels.paged_attention.batch import CpuPages, KvPages, PagedBatch

PAGE_AXES = (None, None, "kv_heads", None)
PAGE_MULTIPLE = 16  # tokens: a page is a whole number of key groups


def empty_pages(
    num_pages: int, page_size: int, num_kv_heads: int, head_dim: int, dtype: jnp.dtype
) -> CpuPages:
    """Makes a layer's pages, with keys and values in one array.

    A page takes memory only when a step first writes to it.

    With r = 4 / itemsize numbers in a 32-bit word, a page has a kv head's keys as [head_dim / r,
    page_size, r] and its values as [page_size / r, head_dim, r].

    Args:
      num_pages: the number of pages.
      page_size: tokens, a multiple of 16.
      num_kv_heads: K.
      head_dim: H, even.
      dtype: float32 or bfloat16.

    Returns:
      [pages, 2, K, page_size * H], of any content: no slot is read before a token is written to it.

    Raises:
      ValueError: the kernel does not support a size or the dtype.
    """
    _check_sizes(page_size, head_dim, jnp.dtype(dtype))
    pages = jax.ShapeDtypeStruct((num_pages, 2, num_kv_heads, page_size * head_dim), dtype)
    # To pack a weight of no outputs writes nothing, so that the memory stays as the system mapped
    # it. XLA itself would fill it. It may not share one array between the layers either.
    return cpu_library.kernel("pack", pages, has_side_effect=True)(jnp.zeros((0, 0), dtype))  # type: ignore[no-any-return]


def has_heads(head_dim: int, dtype: jnp.dtype) -> bool:
    """Whether the kernel supports heads of this size and dtype."""
    return head_dim % 2 == 0 and dtype in (jnp.float32, jnp.bfloat16)


def paged_attention(
    q: Float[Array, "T N H"],
    k: Float[Array, "T K H"],
    v: Float[Array, "T K H"],
    pages: CpuPages,
    batch: PagedBatch,
    *,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Float32[Array, N] | None = None,
) -> tuple[Float[Array, "T N H"], CpuPages]:
    """Like `reference.paged_attention`, over `empty_pages`; in place if the pages are donated.

    Sums and softmax are float32, and only the result is rounded to q's dtype. A token's bits depend
    on its own sequence only. Tokens for which the page table has no room get zeros, and table
    entries that are not valid pages are never written to.

    The gradient is the reference's, which gathers all slots of each token: for short contexts.

    Raises:
      ValueError: dtypes differ, the kernel does not support a size or dtype, or an option is
          invalid.
      RuntimeError: the kernels were not built.
    """
    T, N, H = q.shape
    K, words = pages.shape[2:]
    for name, found in (("k", k.dtype), ("v", v.dtype), ("the pages", pages.dtype)):
        if found != q.dtype:
            raise ValueError(f"{name} must have q's dtype, {q.dtype}, but is {found}: cast it")
    if words % H:
        raise ValueError(f"pages of {words} numbers a head do not hold heads of {H}")
    _check_sizes(words // H, H, q.dtype)
    # The kernel would read beyond the end of arrays that are too small.
    sinks_shape = (N,) if sinks is None else sinks.shape
    if not k.shape == v.shape == (T, K, H) or N % K or sinks_shape != (N,):
        raise ValueError(
            f"q {q.shape} does not go with k {k.shape}, v {v.shape}, pages of {K} heads and sinks "
            f"{sinks_shape}: they are [T, N, H], [T, K, H] and [N], with N a multiple of K"
        )
    if window is not None and window < 1:
        raise ValueError(f"the window must be at least 1, got {window}: None sees all tokens")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"the softcap must be above 0, got {softcap}: None leaves the scores")
    scale = H**-0.5 if scale is None else scale
    return _attend(q, k, v, pages, batch, sinks, window, float(scale), softcap)


def to_reference(pages: CpuPages, page_size: int, head_dim: int) -> KvPages:
    """Converts pages to the layout of `reference` and `blocked`, [pages, page_size, K, H].

    Args:
      pages: [pages, 2, K, page_size * H].
      page_size: tokens.
      head_dim: H.
    """
    num_pages, _, K, _ = pages.shape
    pack = 4 // pages.dtype.itemsize
    keys = pages[:, 0].reshape(num_pages, K, head_dim // pack, page_size, pack)
    values = pages[:, 1].reshape(num_pages, K, page_size // pack, head_dim, pack)
    shape = (num_pages, page_size, K, head_dim)
    return (
        keys.transpose(0, 3, 1, 2, 4).reshape(shape),
        values.transpose(0, 2, 4, 1, 3).reshape(shape),
    )


def from_reference(cache: KvPages) -> CpuPages:
    """The inverse of `to_reference`."""
    num_pages, page_size, K, H = cache[0].shape
    pack = 4 // cache[0].dtype.itemsize
    keys = cache[0].reshape(num_pages, page_size, K, H // pack, pack).transpose(0, 2, 3, 1, 4)
    values = cache[1].reshape(num_pages, page_size // pack, pack, K, H).transpose(0, 3, 1, 4, 2)
    shape = (num_pages, K, page_size * H)
    return jnp.stack([keys.reshape(shape), values.reshape(shape)], axis=1)


def _check_sizes(page_size: int, head_dim: int, dtype: jnp.dtype) -> None:
    if page_size < 1 or page_size % PAGE_MULTIPLE:
        raise ValueError(
            f"the C++ kernel needs a page size that is a multiple of {PAGE_MULTIPLE}, "
            f"got {page_size}"
        )
    if head_dim % 2:
        raise ValueError(f"the C++ kernel needs an even head dimension, got {head_dim}")
    if dtype not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"the C++ kernel has float32 and bfloat16, not {dtype}")


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8))
def _attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    pages: jax.Array,
    batch: PagedBatch,
    sinks: jax.Array | None,
    window: int | None,
    scale: float,
    softcap: float | None,
) -> tuple[jax.Array, jax.Array]:
    return _call(q, k, v, pages, batch, sinks, window, scale, softcap)


def _call(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    pages: jax.Array,
    batch: PagedBatch,
    sinks: jax.Array | None,
    window: int | None,
    scale: float,
    softcap: float | None,
) -> tuple[jax.Array, jax.Array]:
    call = cpu_library.kernel(
        "attention",
        (jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct(pages.shape, pages.dtype)),
        input_output_aliases={3: 1},
    )
    out, new_pages = call(
        *(q, k, v, pages, *batch),
        *(() if sinks is None else (sinks,)),
        page_size=np.int64(pages.shape[3] // q.shape[2]),
        window=np.int64(window or 0),
        scale=np.float32(scale),
        softcap=np.float32(softcap or 0),
    )
    return out, new_pages


_Kept = tuple[jax.Array, jax.Array, jax.Array, jax.Array, PagedBatch, jax.Array | None]


def _forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    pages: jax.Array,
    batch: PagedBatch,
    sinks: jax.Array | None,
    window: int | None,
    scale: float,
    softcap: float | None,
) -> tuple[tuple[jax.Array, jax.Array], _Kept]:
    kept = (q, k, v, pages, batch, sinks)
    outs: tuple[jax.Array, jax.Array] = derivatives.call(
        _call, _reference, kept, (window, scale, softcap)
    )
    return outs, kept


def _reference(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    pages: jax.Array,
    batch: PagedBatch,
    sinks: jax.Array | None,
    window: int | None,
    scale: float,
    softcap: float | None,
) -> tuple[jax.Array, jax.Array]:
    H = q.shape[2]
    cache = to_reference(pages, pages.shape[3] // H, H)
    out, cache = reference.paged_attention(
        *(q, k, v, cache, batch), window=window, scale=scale, softcap=softcap, sinks=sinks
    )
    return out, from_reference(cache)


def _backward(
    window: int | None,
    scale: float,
    softcap: float | None,
    kept: _Kept,
    gradients: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array | None, ...]:
    q, k, v, pages, batch, sinks = kept

    def attend(
        q: jax.Array, k: jax.Array, v: jax.Array, pages: jax.Array, sinks: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        return _reference(q, k, v, pages, batch, sinks, window, scale, softcap)

    _, pull_back = jax.vjp(attend, q, k, v, pages, sinks)
    q_bar, k_bar, v_bar, pages_bar, sinks_bar = pull_back(gradients)
    return q_bar, k_bar, v_bar, pages_bar, None, sinks_bar


_attend.defvjp(_forward, _backward)
