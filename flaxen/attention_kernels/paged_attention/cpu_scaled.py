"""Pages of eight bits with scales in the layout of the C++ kernel, from and to the plain one.

With H the head_dim, a kv head's keys are [H, page_size] bytes and its values [page_size, H], each
followed by [page_size] bfloat16 scales, in one array of the stored dtype: [pages, 2, K, page_size *
(H + 2)]. Deliberately does not know how they are read: csrc/stored_pages.inc.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxen.attention_kernels.paged_attention.pages import CpuPages, KvPages
from flaxen.attention_kernels.paged_attention.scales import SCALE_DTYPE, is_scaled

_SCALE_BYTES = jnp.dtype(SCALE_DTYPE).itemsize


def numbers_per_token(head_dim: int, dtype: jnp.dtype) -> int:
    """The numbers of the pages' dtype that a token's key takes in one head, with its scale."""
    return head_dim + _SCALE_BYTES if is_scaled(dtype) else head_dim


def to_reference(pages: CpuPages, head_dim: int) -> KvPages:
    """Converts pages to the layout of `reference` and `blocked`, with scales.

    Args:
      pages: [pages, 2, K, page_size * (H + 2)], int8 or float8_e4m3fn.
      head_dim: H.
    """
    num_pages, _, K, width = pages.shape
    page_size = width // numbers_per_token(head_dim, pages.dtype)
    size = page_size * head_dim
    keys = pages[:, 0, :, :size].reshape(num_pages, K, head_dim, page_size)
    values = pages[:, 1, :, :size].reshape(num_pages, K, page_size, head_dim)
    tails = pages[:, :, :, size:].reshape(num_pages, 2, K, page_size, _SCALE_BYTES)
    scales = jax.lax.bitcast_convert_type(tails, SCALE_DTYPE).transpose(1, 0, 3, 2)[..., None]
    return KvPages(keys.transpose(0, 3, 1, 2), values.transpose(0, 2, 1, 3), scales[0], scales[1])


def from_reference(cache: KvPages) -> CpuPages:
    """The inverse of `to_reference`."""
    assert cache.values is not None
    num_pages, page_size, K, H = cache.keys.shape
    shape = (num_pages, K, page_size * H)
    keys = cache.keys.transpose(0, 2, 3, 1).reshape(shape)
    values = cache.values.transpose(0, 2, 1, 3).reshape(shape)
    planes = []
    for numbers, scales in ((keys, cache.key_scales), (values, cache.value_scales)):
        assert scales is not None
        by_head = scales[..., 0].transpose(0, 2, 1)
        tail = jax.lax.bitcast_convert_type(by_head, numbers.dtype).reshape(num_pages, K, -1)
        planes.append(jnp.concatenate([numbers, tail], axis=-1))
    return jnp.stack(planes, axis=1)
