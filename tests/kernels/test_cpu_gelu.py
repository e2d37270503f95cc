"""The C++ GELU = the reference, in both tails; a row's bits are its own; gradients; infinity."""

from __future__ import annotations

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels import cpu_library
from flaxen.kernels.gelu import GeluForm, reference
from tests.kernels.on_cpu import gelu
from tests.kernels.pairwise import ISAS, THREADS, pairwise

RNG = np.random.default_rng(5)
FORMS: tuple[GeluForm, ...] = get_args(GeluForm)


def as_bytes(x: jax.Array) -> bytes:
    return np.asarray(x).tobytes()


@pairwise({"isa": ISAS, "form": FORMS, "dtype": ["float32", "bfloat16"], "width": [1, 8, 31, 4001]})
def test_equals_the_reference(isa: str, form: GeluForm, dtype: str, width: int) -> None:
    x = jnp.asarray(np.linspace(-9, 9, 3 * width).reshape(3, width), dtype)
    out = gelu(x, form)
    assert out.dtype == x.dtype
    with jax.enable_x64(True):
        wide = jnp.asarray(np.asarray(x, np.float64))
        expected = np.asarray(jax.nn.gelu(wide, approximate=form == "tanh"))
    # Relative as far as e^-20; the forms' own rounding of the exponent grows with it.
    rtol = 1e-5 if dtype == "float32" else 2.0**-8
    np.testing.assert_allclose(np.asarray(out, np.float64), expected, rtol=rtol, atol=1e-9)


@pairwise({"isa": ISAS, "num_threads": THREADS, "form": FORMS, "dtype": ["float32", "bfloat16"]})
def test_a_row_has_the_same_bits_in_any_batch(
    isa: str, num_threads: int, form: GeluForm, dtype: str
) -> None:
    x = jnp.asarray(RNG.standard_normal((300, 577)), dtype)
    together = gelu(x, form)
    cpu_library.start(num_threads=1)
    for row in (0, 1, 63, 299):
        assert as_bytes(gelu(x[row], form)) == as_bytes(together[row])


@pytest.mark.parametrize("form", FORMS)
def test_infinity_and_nan(isa: str, form: GeluForm) -> None:
    found = np.asarray(gelu(jnp.asarray([[jnp.inf, jnp.nan, -1e30, 1e30, 0.0]]), form))[0]
    assert found[0] == np.inf
    assert np.isnan(found[1])
    assert abs(found[2]) < 1e-30
    assert found[3] == np.float32(1e30)
    assert found[4] == 0
    assert gelu(jnp.zeros((0, 5)), form).shape == (0, 5)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_the_references(form: GeluForm) -> None:
    x = jnp.asarray(RNG.standard_normal((3, 24)), jnp.float32)
    found = jax.grad(lambda x: jnp.sum(gelu(x, form) ** 2))(x)
    expected = jax.grad(lambda x: jnp.sum(reference.gelu(x, form == "tanh") ** 2))(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    mapped = jax.vmap(lambda x: gelu(x, form))(x)
    assert as_bytes(mapped) == as_bytes(gelu(x, form))
