"""The C++ layer norm = the reference; a row's bits are its own; gradients; NaN."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.kernels import cpu_library
from flaxen.kernels.layer_norm import reference
from tests.kernels.on_cpu import layer_norm
from tests.kernels.pairwise import ISAS, THREADS, pairwise

EPS = 1e-5
RNG = np.random.default_rng(4)
LIMIT = {"float32": 4e-6, "bfloat16": 2.0**-7}  # of the largest number; one unit of bfloat16


def inputs(shape: tuple[int, ...], dtype: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    x = jnp.asarray(RNG.standard_normal(shape) * 3 + 2, dtype)
    weight, bias = jnp.asarray(RNG.standard_normal((2, shape[-1])), dtype)
    return x, weight, bias


def as_bytes(x: jax.Array) -> bytes:
    return np.asarray(x).tobytes()


@pairwise(
    {
        "isa": ISAS,
        "width": [1, 7, 8, 16, 31, 64, 100, 576, 20000],
        "dtype": LIMIT,
        "biased": [True, False],
    }
)
def test_equals_the_reference(isa: str, width: int, dtype: str, biased: bool) -> None:
    x, weight, some = inputs((17, width), dtype)
    bias = some if biased else None
    out = layer_norm(x, weight, bias, EPS)
    expected = np.asarray(reference.layer_norm(x, weight, bias, EPS), np.float32)
    assert out.dtype == x.dtype
    limit = LIMIT[dtype] * max(np.abs(expected).max(), 1)
    np.testing.assert_allclose(np.asarray(out, np.float32), expected, rtol=0, atol=limit)


@pairwise({"isa": ISAS, "num_threads": THREADS, "dtype": LIMIT})
def test_a_row_has_the_same_bits_in_any_batch(isa: str, num_threads: int, dtype: str) -> None:
    """With rows enough for several tasks, and against one thread and one row."""
    x, weight, bias = inputs((300, 577), dtype)
    together = layer_norm(x, weight, bias, EPS)
    assert as_bytes(layer_norm(x.reshape(3, 100, 577), weight, bias, EPS)) == as_bytes(together)
    cpu_library.start(num_threads=1)
    for row in (0, 1, 63, 299):
        assert as_bytes(layer_norm(x[row], weight, bias, EPS)) == as_bytes(together[row])


def test_nan_and_inf_stay_in_their_row(isa: str) -> None:
    x, weight, bias = inputs((4, 50), "float32")
    dirty = x.at[1, 3].set(jnp.nan).at[3, 49].set(jnp.inf)
    found = np.asarray(layer_norm(dirty, weight, bias, EPS))
    assert np.isnan(found[[1, 3]]).all()
    clean = np.asarray(layer_norm(x, weight, bias, EPS))
    np.testing.assert_array_equal(found[[0, 2]], clean[[0, 2]])


def test_equal_numbers_become_the_bias(isa: str) -> None:
    _, weight, bias = inputs((3, 50), "float32")
    found = layer_norm(jnp.full((3, 50), 5.0), weight, bias, EPS)
    np.testing.assert_array_equal(found, np.broadcast_to(bias, (3, 50)))
    assert layer_norm(jnp.zeros((0, 50)), weight, None, EPS).shape == (0, 50)


def test_gradients_are_the_references() -> None:
    x, weight, bias = inputs((3, 5, 24), "float32")
    upstream = jnp.asarray(RNG.standard_normal(x.shape), jnp.float32)

    def loss(norm, *args):  # type: ignore[no-untyped-def]
        return jnp.sum(norm(*args, EPS) * upstream)

    for args in ((x, weight, bias), (x, weight, None)):
        argnums = (0, 1, 2) if args[2] is not None else (0, 1)
        found = jax.jit(jax.grad(lambda *args: loss(layer_norm, *args), argnums=argnums))(*args)
        expected = jax.grad(lambda *args: loss(reference.layer_norm, *args), argnums=argnums)(*args)
        for got, want in zip(found, expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_under_vmap(isa: str) -> None:
    x, _, _ = inputs((3, 5, 24), "float32")
    weights = jnp.asarray(RNG.standard_normal((3, 24)), jnp.float32)
    found = jax.vmap(lambda x, weight: layer_norm(x, weight, None, EPS))(x, weights)
    for i in range(3):
        assert as_bytes(found[i]) == as_bytes(layer_norm(x[i], weights[i], None, EPS))


def test_other_dtypes_go_to_the_reference() -> None:
    args = inputs((2, 9), "float16")
    found = layer_norm(*args, EPS)
    assert found.dtype == jnp.float16
    np.testing.assert_array_equal(found, reference.layer_norm(*args, EPS))
