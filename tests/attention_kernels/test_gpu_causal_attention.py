"""What cuDNN is asked for in training: the same attention, asked for where it has it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.attention_kernels.causal_attention import reference
from flaxen.attention_kernels.causal_attention.gpu import by_library, causal_attention, suits_cudnn
from flaxen.attention_kernels.causal_attention.reference import Operands, Options
from tests.kernels.arrays import normal

SEGMENTS = jnp.asarray([[1] * 7 + [2] * 12 + [3] * 2 + [0] * 3])


@pytest.mark.parametrize("segment_ids", [None, SEGMENTS])
@pytest.mark.parametrize("window", [None, 4])
def test_the_library_is_asked_for_the_references_attention(
    window: int | None, segment_ids: jax.Array | None
) -> None:
    q, k, v = normal("q", 1, 24, 6, 8), normal("k", 1, 24, 2, 8), normal("v", 1, 24, 2, 8)
    options = Options(window, 0.3, None)

    def loss(attend: Any, *extra: Any) -> Any:
        def of(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
            out = attend(q, k, v, segment_ids, options, *extra)
            return jnp.sum(out * normal("weights", *out.shape)), out

        return jax.grad(of, argnums=(0, 1, 2), has_aux=True)(q, k, v)

    got = loss(by_library, "xla")  # XLA's answer to the question that cuDNN gets
    expected = loss(
        lambda q, k, v, ids, options: reference.causal_attention(
            Operands(q, k, v, segment_ids=ids), options
        )
    )
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_cudnn_is_asked_where_it_can() -> None:
    plain, dtype = Options(None, 1.0, None), jnp.dtype(jnp.bfloat16)
    assert suits_cudnn((1, 512, 8, 128), dtype, plain, is_cuda=True)
    assert suits_cudnn((1, 512, 8, 64), dtype, Options(256, 1.0, None), is_cuda=True)
    refused = [
        ((1, 512, 8, 128), dtype, plain, False),
        ((1, 512, 8, 128), jnp.dtype(jnp.float32), plain, True),
        ((1, 512, 8, 256), dtype, plain, True),
        ((1, 512, 8, 100), dtype, plain, True),
        ((1, 511, 8, 128), dtype, plain, True),
        ((1, 512, 8, 128), dtype, Options(None, 1.0, 30.0), True),
    ]
    assert not any(suits_cudnn(*given, is_cuda=is_cuda) for *given, is_cuda in refused)


def test_without_cudnn_it_is_the_reference() -> None:
    q, k, v = (normal(name, 1, 8, 2, 8, dtype="bfloat16") for name in "qkv")
    options = Options(None, 0.3, None)
    operands = Operands(q, k, v)
    expected = reference.causal_attention(operands, options)
    np.testing.assert_array_equal(causal_attention(operands, options), expected)
