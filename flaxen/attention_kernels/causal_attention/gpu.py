"""Causal attention on a GPU: cuDNN's flash attention through JAX where it can, else the reference.

cuDNN is asked for where JAX computes on NVIDIA's GPUs, because JAX looks for it while it traces: a
program that is compiled on another machine has the reference. Deliberately does not know training.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from flaxen.attention_kernels.causal_attention import reference
from flaxen.attention_kernels.causal_attention.chunks import chunk_segments
from flaxen.attention_kernels.causal_attention.reference import Operands, Options

_MAX_HEAD_DIM = 128  # the largest with gradients on every GPU since Ampere


def causal_attention(operands: Operands, options: Options) -> jax.Array:
    """See flaxen.kernels.causal_attention.causal_attention. cuDNN has neither sinks nor values of
    another size than keys.
    """
    q, k, v, sinks, segment_ids = operands
    is_plain = sinks is None and k.shape == v.shape
    if not is_plain or not suits_cudnn(q.shape, q.dtype, options, is_cuda=_is_cuda()):
        return reference.causal_attention(operands, options)
    segment_ids = chunk_segments(segment_ids, q.shape[:2], options.chunk)
    return by_library(q, k, v, segment_ids, options, "cudnn")


def suits_cudnn(
    shape: tuple[int, ...], dtype: jnp.dtype, options: Options, *, is_cuda: bool
) -> bool:
    """Whether cuDNN has this attention, and its gradient.

    Args:
      shape: the queries', [B, T, N, H].
      dtype: theirs.
      options: the same for all tokens; cuDNN has no softcap.
      is_cuda: whether JAX computes on NVIDIA's GPUs.
    """
    _, length, _, head_dim = shape
    return (
        is_cuda
        and dtype in (jnp.bfloat16, jnp.float16)
        and head_dim <= _MAX_HEAD_DIM
        and head_dim % 8 == 0
        and length % 2 == 0
        and options.softcap is None
    )


def by_library(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array | None,
    options: Options,
    implementation: Literal["cudnn", "xla"],
) -> jax.Array:
    """Attention by `jax.nn.dot_product_attention`.

    Segments are a mask [B, 1, T, T], which all heads share. Padding sees padding, so that no row
    of the softmax is empty; its output is zeros.
    """
    mask = None
    if segment_ids is not None:
        mask = (segment_ids[:, :, None] == segment_ids[:, None, :])[:, None]
    out = jax.nn.dot_product_attention(
        *(q, k, v),
        mask=mask,
        scale=options.scale,
        is_causal=True,
        local_window_size=None if options.window is None else (options.window - 1, 0),
        implementation=implementation,
    )
    if segment_ids is None:
        return out
    return jnp.where((segment_ids != 0)[:, :, None, None], out, jnp.zeros((), out.dtype))


def _is_cuda() -> bool:
    device = jax.devices()[0]
    return device.platform == "gpu" and "cuda" in device.client.platform_version
