"""Pages in the layout of the C++ kernel, made and converted from and to the plain one.

Deliberately does not know what reads them: `cpu`, csrc/attention.inc.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxen.attention_kernels.paged_attention import cpu_scaled
from flaxen.attention_kernels.paged_attention.cpu_scaled import numbers_per_token
from flaxen.attention_kernels.paged_attention.pages import CpuPages, KvPages
from flaxen.attention_kernels.paged_attention.scales import is_scaled
from flaxen.kernels import cpu_library

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
    check_sizes(page_size, head_dim, jnp.dtype(dtype))
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


def page_size_of(pages: CpuPages, head_dim: int, value_dim: int) -> int:
    """The tokens of a page, of keys of H numbers beside values of `value_dim`.

    Raises:
      ValueError: the pages hold heads of other sizes.
    """
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
    size = page_size_of(pages, head_dim, V)
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


def check_sizes(page_size: int, head_dim: int, dtype: jnp.dtype) -> None:
    """Refuses sizes and dtypes that the kernel does not have.

    Raises:
      ValueError: page_size (tokens), head_dim or dtype is one of them.
    """
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
