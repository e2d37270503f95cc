"""Attention over paged keys and values: one ragged row of tokens mixes prefill and decode.

Every implementation has the signature of `reference.paged_attention`. Each backend has its own
layout of pages, made by `empty_cache`: a cache can only be used with the backend it was made for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from flaxen.attention_kernels.mask import check_scores
from flaxen.attention_kernels.paged_attention import blocked, cpu, cpu_pages, gpu, tpu, tpu_tokamax
from flaxen.attention_kernels.paged_attention.blocked import KEY_BLOCK
from flaxen.attention_kernels.paged_attention.pages import CpuPages, KvPages, Pages, TpuPages
from flaxen.attention_kernels.paged_attention.scales import is_scaled
from flaxen.kernels.backend import Backend, find_implementation
from flaxen.kernels.paged_batch import PagedBatch


class AttentionImplementation(NamedTuple):
    """The functions of a backend for attention over pages."""

    attend: Callable[..., tuple[Any, Any]]  # as reference.paged_attention, over its own pages
    empty_pages: Callable[..., Pages]  # as blocked.empty_pages; value_dim only if it is given
    page_multiple: int  # a page is a multiple of this many tokens
    has_heads: Callable[[int, jnp.dtype], bool]  # of this head_dim and dtype
    # The logical axes of each array of the pages: a mesh divides the one named kv_heads.
    page_axes: tuple[str | None, ...]


_BLOCKED = AttentionImplementation(
    blocked.paged_attention, blocked.empty_pages, 1, blocked.has_heads, blocked.PAGE_AXES
)
_GPU = AttentionImplementation(
    gpu.paged_attention, gpu.empty_pages, 1, gpu.has_heads, blocked.PAGE_AXES
)
IMPLEMENTATIONS: Mapping[Backend, AttentionImplementation] = {
    Backend.REFERENCE: _BLOCKED,  # reference.py says the same more plainly, for tests
    Backend.CPU: AttentionImplementation(
        cpu.paged_attention,
        cpu_pages.empty_pages,
        cpu_pages.PAGE_MULTIPLE,
        cpu_pages.has_heads,
        cpu_pages.PAGE_AXES,
    ),
    Backend.GPU: _GPU,
    Backend.GPU_INVARIANT: _GPU._replace(
        attend=functools.partial(gpu.paged_attention, is_invariant=True)
    ),
    Backend.TPU: AttentionImplementation(
        tpu.paged_attention, tpu.empty_pages, tpu.PAGE_MULTIPLE, tpu.has_heads, tpu.PAGE_AXES
    ),
    Backend.TPU_TOKAMAX: AttentionImplementation(
        tpu_tokamax.paged_attention,
        tpu_tokamax.empty_pages,
        tpu_tokamax.PAGE_MULTIPLE,
        tpu_tokamax.has_heads,
        tpu_tokamax.PAGE_AXES,
    ),
}
# For values that are narrower than keys, or a part of them, which the kernels of GPU and TPU do not
# have.
OF_OTHER_VALUES: Mapping[Backend, AttentionImplementation] = {
    Backend.REFERENCE: _BLOCKED,
    Backend.CPU: IMPLEMENTATIONS[Backend.CPU],
    Backend.GPU: _BLOCKED,
    Backend.TPU: _BLOCKED,
    Backend.TPU_TOKAMAX: _BLOCKED,
}

__all__ = [
    "CpuPages",
    "KvPages",
    "Pages",
    "TpuPages",
    "check_page_size",
    "empty_cache",
    "has_pages",
    "page_axes",
    "paged_attention",
]


def empty_cache(
    num_pages: int,
    page_size: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: jnp.dtype,
    *,
    value_dim: int | None = None,
    backend: Backend,
) -> Pages:
    """Makes a layer's pages in the backend's layout. Nobody may read a slot that was not written.

    Args:
      num_pages: the number of pages.
      page_size: tokens; a multiple of 16 for the kernels of CPU and TPU, a divisor of 128.
      num_kv_heads: K.
      head_dim: H; even for the CPU's kernel.
      dtype: float32 or bfloat16; int8 or float8_e4m3fn with a scale for each token and head, but
        for the TPU's kernel, which has float8_e4m3fn without scales.
      value_dim: V; None is H, and 0 keeps keys alone, of which values are a part.
      backend: the backend that reads the pages.

    Raises:
      ValueError: the backend's kernel does not support a size or the dtype.
    """
    if is_scaled(dtype) and value_dim not in (None, head_dim):
        raise ValueError(
            f"pages of {jnp.dtype(dtype).name} are for values as large as keys, and heads of "
            f"{head_dim} have values of {value_dim}: use the dtype of compute"
        )
    make = _find(backend, head_dim, value_dim).empty_pages
    # Kernels whose values have the size of their keys know no other.
    others = () if value_dim in (None, head_dim) else (value_dim,)
    return make(num_pages, page_size, num_kv_heads, head_dim, dtype, *others)


def check_page_size(page_size: int, *, backend: Backend) -> None:
    """Refuses a page size that the backend does not have.

    Args:
      page_size: tokens.
      backend: the backend that reads the pages.

    Raises:
      ValueError: it does not divide the key block, or is not a multiple of what a page is made of.
    """
    if page_size < 1 or KEY_BLOCK % page_size:
        raise ValueError(f"page_size must divide {KEY_BLOCK}, got {page_size}")
    multiple = find_implementation("paged_attention", IMPLEMENTATIONS, backend).page_multiple
    if page_size % multiple:
        raise ValueError(
            f"page_size must be a multiple of {multiple} on the backend {backend.value}, got "
            f"{page_size}"
        )


def has_pages(
    head_dim: int, dtype: jnp.dtype, *, value_dim: int | None = None, backend: Backend
) -> bool:
    """Whether the backend supports pages for such heads, so that `empty_cache` accepts them.

    Args:
      head_dim: H.
      dtype: the dtype of keys and values.
      value_dim: as in `empty_cache`.
      backend: the backend that reads the pages.
    """
    if is_scaled(dtype) and value_dim not in (None, head_dim):
        return False
    return _find(backend, head_dim, value_dim).has_heads(head_dim, dtype)


def page_axes(
    head_dim: int, value_dim: int | None = None, *, backend: Backend
) -> tuple[str | None, ...]:
    """The logical axes of each array of a layer's pages, for a mesh.

    Args:
      head_dim: H.
      value_dim: as in `empty_cache`.
      backend: the backend that reads the pages.
    """
    return _find(backend, head_dim, value_dim).page_axes


def paged_attention(
    q: Float[Array, "T N H"],
    k: Float[Array, "T K H"],
    v: Float[Array, "T K V"] | None,
    cache: Pages,
    batch: PagedBatch,
    *,
    window: int | None = None,
    chunk: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Float32[Array, N] | None = None,
    value_dim: int | None = None,
    backend: Backend,
) -> tuple[Float[Array, "T N V"], Pages]:
    """Like `reference.paged_attention`, over the backend's own cache from `empty_cache`.

    Raises:
      ValueError: an option has no meaning, or the backend does not have it.
    """
    check_scores(window, chunk, softcap)
    H = q.shape[2]
    if v is None and not 0 < (value_dim or 0) <= H:
        raise ValueError(
            f"values that are part of keys of {H} numbers are their first value_dim numbers, got "
            f"value_dim={value_dim}"
        )
    run = _find(backend, H, 0 if v is None else v.shape[2]).attend
    options: dict[str, Any] = {"scale": scale, "softcap": softcap, "sinks": sinks}
    options |= {"value_dim": value_dim} if v is None else {}
    return run(q, k, v, cache, batch, window=window, chunk=chunk, **options)


def _find(backend: Backend, head_dim: int, value_dim: int | None) -> AttentionImplementation:
    if value_dim is None or value_dim == head_dim:
        return find_implementation("paged_attention", IMPLEMENTATIONS, backend)
    return find_implementation("attention with other values", OF_OTHER_VALUES, backend)
