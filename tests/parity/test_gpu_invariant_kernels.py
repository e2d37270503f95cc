"""The GPU's ops of one order, interpreted: equal to the reference, and a row's bits are its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels.activation import activation
from flaxen.kernels.backend import Backend
from flaxen.kernels.layer_norm import layer_norm
from flaxen.kernels.linear import LoraWeight, gated_linear, linear, unembed
from flaxen.kernels.linear.quantized import QuantizedLinear
from flaxen.kernels.log_softmax import log_softmax
from flaxen.kernels.log_softmax.gpu_invariant import row_sum
from flaxen.kernels.rms_norm import rms_norm
from tests.kernels.arrays import normal

INVARIANT = Backend.GPU_INVARIANT


def lora(num_rows: int) -> LoraWeight:
    return LoraWeight(
        base=normal("w", 200, 72),
        a=normal("a", 3, 200, 4),
        b=normal("b", 3, 4, 72),
        scales=jnp.asarray([0.5, 1.0, 2.0]),
        ids=jnp.arange(num_rows, dtype=jnp.int32) % 4 - 1,
    )


OPS = {
    "linear": lambda x, backend: linear(x, normal("w", 200, 72), normal("b", 72), backend=backend),
    "norm, gate": lambda x, backend: gated_linear(
        *(x, normal("g", 200, 72), normal("u", 200, 72)),
        norm=(normal("n", 200), 1e-5),
        backend=backend,
    ),
    "adapters": lambda x, backend: linear(
        x, lora(x.shape[0]), residual=normal("r", 300, 72)[: x.shape[0]], backend=backend
    ),
    "unembed": lambda x, backend: unembed(
        x, normal("t", 330, 200), (normal("n", 200), 1e-5), backend=backend
    ),
    "rms_norm": lambda x, backend: rms_norm(x, normal("n", 200), 1e-5, backend=backend),
    "layer_norm": lambda x, backend: layer_norm(
        x, normal("n", 200), normal("m", 200), 1e-5, backend=backend
    ),
    "gelu": lambda x, backend: activation(x, "gelu", backend=backend),
    "log_softmax": lambda x, backend: log_softmax(x, backend=backend),
}


@pytest.mark.parametrize("name", OPS)
def test_equals_the_reference_and_a_row_is_its_own(name: str) -> None:
    run = jax.jit(OPS[name], static_argnums=1)
    x = normal("x", 300, 200)
    whole = np.asarray(run(x, INVARIANT))
    expected = np.asarray(run(x, Backend.REFERENCE))
    np.testing.assert_allclose(whole, expected, rtol=2e-5, atol=2e-5 * np.abs(expected).max())
    for num_rows in (1, 70):  # with as many rows, parts of the inputs have programs of their own
        np.testing.assert_array_equal(np.asarray(run(x[:num_rows], INVARIANT)), whole[:num_rows])


def test_rows_longer_than_a_programs_registers() -> None:
    x = normal("long", 3, 9001)
    np.testing.assert_allclose(row_sum(x), x.sum(axis=1), rtol=1e-4)
    np.testing.assert_allclose(
        log_softmax(x, backend=INVARIANT), jax.nn.log_softmax(x), rtol=0, atol=1e-5
    )


def test_quantized_weights_have_one_tile_in_every_step() -> None:
    weight = QuantizedLinear(
        data=jnp.asarray(np.arange(64 * 32).reshape(64, 32) % 200 - 100, jnp.int8),
        scales=jnp.full((1, 32), 0.01, jnp.float32),
    )
    x = normal("x", 80, 64)
    whole = linear(x, weight, backend=INVARIANT)
    np.testing.assert_array_equal(linear(x[:1], weight, backend=INVARIANT), whole[:1])
    odd = QuantizedLinear(data=weight.data[:60], scales=weight.scales)
    with pytest.raises(ValueError, match=r"\[60, 32\] in groups of 60 has no kernel.*quantization"):
        linear(x[:, :60], odd, backend=INVARIANT)


def test_gradients_are_the_references() -> None:
    x, weight = normal("x", 5, 200), normal("w", 200, 72)

    def loss(backend: Backend) -> jax.Array:
        return jax.grad(lambda w: jnp.sum(linear(x, w, backend=backend) ** 2))(weight)

    found, expected = loss(INVARIANT), loss(Backend.REFERENCE)
    # Float32 sums of 200 products, in two orders.
    np.testing.assert_allclose(found, expected, rtol=0, atol=4e-6 * np.abs(expected).max())
