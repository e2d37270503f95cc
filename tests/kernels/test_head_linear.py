"""Each head's own product: the C++ kernel = the reference, a row's bits are its own, gradients."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels.backend import Backend
from flaxen.kernels.head_linear import head_linear
from tests.kernels.arrays import as_f32, normal
from tests.kernels.pairwise import ISAS, THREADS, pairwise

SIZES = [(3, 24, 7), (2, 5, 64), (1, 33, 150)]


def make(rows: int, sizes: tuple[int, int, int], dtype: str) -> tuple[jax.Array, jax.Array]:
    N, I, O = sizes  # noqa: E741  # the names of the dimension key
    return normal("x", rows, N, I, dtype=dtype), normal("w", N, I, O, dtype=dtype)


@pairwise({"isa": ISAS, "num_threads": THREADS, "sizes": SIZES, "dtype": ["float32", "bfloat16"]})
def test_equals_the_reference_and_rows_have_their_own_bits(
    isa: str, num_threads: int, sizes: tuple[int, int, int], dtype: str
) -> None:
    x, weight = make(110, sizes, dtype)
    found = head_linear(x, weight, backend=Backend.CPU)
    wide = head_linear(*(each.astype(jnp.float32) for each in (x, weight)), backend=Backend.CPU)
    expected = np.einsum("TNI,NIO->TNO", as_f32(x), as_f32(weight), dtype=np.float64)
    assert found.dtype == dtype
    np.testing.assert_allclose(wide, expected, rtol=0, atol=2e-5)
    np.testing.assert_array_equal(as_f32(found), as_f32(wide.astype(dtype)))
    for begin, end in ((0, 1), (109, 110), (40, 47), (95, 98)):
        part = head_linear(x[begin:end], weight, backend=Backend.CPU)
        assert np.asarray(part).tobytes() == np.asarray(found[begin:end]).tobytes()


def test_gradients_are_the_references() -> None:
    x, weight = make(6, SIZES[0], "float32")

    def gradients(backend: Backend) -> Any:
        def loss(x: jax.Array, weight: jax.Array) -> jax.Array:
            return jnp.sum(jnp.sin(head_linear(x.reshape(2, 3, 3, 24), weight, backend=backend)))

        return jax.jit(jax.value_and_grad(loss, (0, 1)))(x, weight)

    found, expected = gradients(Backend.CPU), gradients(Backend.REFERENCE)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected
    )


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"x \(2, 4\) does not go with a weight \(3, 4, 5\)"):
        head_linear(jnp.zeros((2, 4)), jnp.zeros((3, 4, 5)), backend=Backend.REFERENCE)
