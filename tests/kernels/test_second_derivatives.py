"""Hessians of each op through its C++ kernel = those of its reference, in both modes of JAX."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.attention_kernels.causal_attention import reference as attention_reference
from flaxen.kernels import cpu_library
from flaxen.kernels.activation import reference as activation_reference
from flaxen.kernels.layer_norm import reference as layer_norm_reference
from flaxen.kernels.linear import reference
from flaxen.kernels.rms_norm import reference as norm_reference
from flaxen.kernels.rope import reference as rope_reference
from tests.kernels.on_cpu import (
    activation,
    apply_rope,
    causal_attention,
    gated_linear,
    layer_norm,
    linear,
    log_softmax,
    pack,
    rms_norm,
)

pytestmark = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")

RNG = np.random.default_rng(0)


def random(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


X, SCALE = random(1, 32), random(32)
W, U = random(32, 16) / 4, random(32, 16) / 4
COS, SIN = random(2, 1, 4), random(2, 1, 4)
Q, K, V = random(1, 4, 2, 2), random(1, 4, 1, 2), random(1, 4, 1, 2)
SEGMENTS = jnp.asarray([[1, 2, 2, 2]], jnp.int32)
WIDE = jnp.dtype("float32")
Op = Callable[[jax.Array], jax.Array]


def plain(x: jax.Array, *weights: jax.Array, gated: bool = False) -> jax.Array:
    biases = (None,) * len(weights)
    operands = reference.Operands(x, weights, biases)
    return reference.linears(operands, reference.Options(WIDE, gated=gated))[0]


def attention(window: int | None, softcap: float | None) -> tuple[Op, Op, jax.Array]:
    options = attention_reference.Options(window, 0.5, softcap)
    return (
        lambda q: causal_attention(
            q, K, V, segment_ids=SEGMENTS, window=window, scale=0.5, softcap=softcap
        ),
        lambda q: attention_reference.causal_attention(
            attention_reference.Operands(q, K, V, segment_ids=SEGMENTS), options
        ),
        Q,
    )


OPS: dict[str, tuple[Op, Op, jax.Array]] = {
    "norm": (
        lambda x: rms_norm(x, SCALE, 1e-5),
        lambda x: norm_reference.rms_norm(x, SCALE, 1e-5),
        X,
    ),
    "norm's weight": (
        lambda scale: rms_norm(X, scale, 1e-5),
        lambda scale: norm_reference.rms_norm(X, scale, 1e-5),
        SCALE,
    ),
    "layer norm": (
        lambda x: layer_norm(x, SCALE, None, 1e-5),
        lambda x: layer_norm_reference.layer_norm(x, SCALE, None, 1e-5),
        X,
    ),
    "gelu": (
        lambda x: activation(x, "gelu"),
        lambda x: activation_reference.activation(x, "gelu"),
        X,
    ),
    "rope": (
        lambda x: apply_rope(x, COS, SIN),
        lambda x: rope_reference.apply_rope(x, COS, SIN),
        random(2, 2, 8),
    ),
    "log-softmax": (log_softmax, jax.nn.log_softmax, X),
    "attention": attention(None, None),
    "attention with a window and a softcap": attention(2, 2.0),
    "linear": (lambda x: linear(x, pack(W)), lambda x: plain(x, W), X),
    "gate and up": (
        lambda x: gated_linear(x, pack(W), pack(U)),
        lambda x: plain(x, W, U, gated=True),
        X,
    ),
    "weight": (
        lambda scale: linear(X, pack(W * scale[None])),
        lambda scale: plain(X, W * scale[None]),
        random(16),
    ),
}


@pytest.mark.parametrize("name", OPS)
def test_hessians_are_the_references(name: str) -> None:
    ours, expected, x = OPS[name]

    def cubed(op: Op) -> Callable[[jax.Array], jax.Array]:
        return lambda x: jnp.sum(op(x) ** 3)

    exact = jax.jit(jax.hessian(cubed(expected)))(x)
    assert np.abs(exact).max() > 0.01
    for hessian in (jax.hessian, lambda f: jax.jacrev(jax.jacrev(f))):
        found = jax.jit(hessian(cubed(ours)))(x)
        np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-5 * np.abs(exact).max())
