"""The C++ activations = the reference, in both tails; a row's bits are its own; gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels import cpu_library
from flaxen.kernels.activation import ActivationName, reference
from tests.kernels.on_cpu import activation
from tests.kernels.pairwise import ISAS, THREADS, pairwise

RNG = np.random.default_rng(5)
NAMES: tuple[ActivationName, ...] = get_args(ActivationName)
WIDE: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": jax.nn.gelu,
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
}


def as_bytes(x: jax.Array) -> bytes:
    return np.asarray(x).tobytes()


@pairwise({"isa": ISAS, "name": NAMES, "dtype": ["float32", "bfloat16"], "width": [1, 8, 31, 4001]})
def test_equals_the_reference(isa: str, name: ActivationName, dtype: str, width: int) -> None:
    x = jnp.asarray(np.linspace(-9, 9, 3 * width).reshape(3, width), dtype)
    out = activation(x, name)
    assert out.dtype == x.dtype
    with jax.enable_x64(True):
        wide = jnp.asarray(np.asarray(x, np.float64))
        expected = np.asarray(WIDE[name](wide))
    # Relative as far as e^-20; the forms' own rounding of the exponent grows with it.
    rtol = 1e-5 if dtype == "float32" else 2.0**-8
    np.testing.assert_allclose(np.asarray(out, np.float64), expected, rtol=rtol, atol=1e-9)


@pairwise({"isa": ISAS, "num_threads": THREADS, "name": NAMES, "dtype": ["float32", "bfloat16"]})
def test_a_row_has_the_same_bits_in_any_batch(
    isa: str, num_threads: int, name: ActivationName, dtype: str
) -> None:
    x = jnp.asarray(RNG.standard_normal((300, 577)), dtype)
    together = activation(x, name)
    cpu_library.start(num_threads=1)
    for row in (0, 1, 63, 299):
        assert as_bytes(activation(x[row], name)) == as_bytes(together[row])


@pytest.mark.parametrize("name", NAMES)
def test_infinity_and_nan(isa: str, name: ActivationName) -> None:
    x = jnp.asarray([[jnp.inf, jnp.nan, -1e30, 1e30, 0.0]])
    found, expected = (np.asarray(f(x, name))[0] for f in (activation, reference.activation))
    assert np.isnan(found[1])
    kept = [0, 2, 3, 4]
    np.testing.assert_allclose(found[kept], expected[kept], atol=1e-30)
    assert activation(jnp.zeros((0, 5)), name).shape == (0, 5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_references(name: ActivationName) -> None:
    x = jnp.asarray(RNG.standard_normal((3, 24)), jnp.float32)
    found = jax.grad(lambda x: jnp.sum(activation(x, name) ** 2))(x)
    expected = jax.grad(lambda x: jnp.sum(reference.activation(x, name) ** 2))(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    mapped = jax.vmap(lambda x: activation(x, name))(x)
    assert as_bytes(mapped) == as_bytes(activation(x, name))
