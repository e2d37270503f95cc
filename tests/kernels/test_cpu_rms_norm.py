"""The C++ RMS norm = the reference; a row's bits are its own; gradients; NaN."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.kernels import cpu_library
from flaxen.kernels.rms_norm import reference
from tests.kernels.on_cpu import rms_norm
from tests.kernels.pairwise import ISAS, THREADS, pairwise

EPS = 1e-5
RNG = np.random.default_rng(3)
# A first rounding that went the other way is a unit of at most 2^-7; then each side is rounded once
# more, by half of one.
LIMIT = {"float32": 2e-6, "bfloat16": 2.0**-7 + 2.0**-8}


def inputs(shape: tuple[int, ...], dtype: str) -> tuple[jax.Array, jax.Array]:
    x = jnp.asarray(RNG.standard_normal(shape) * 3, dtype)
    return x, jnp.asarray(RNG.standard_normal(shape[-1:]), dtype)


def as_bytes(x: jax.Array) -> bytes:
    return np.asarray(x).tobytes()


@pairwise({"isa": ISAS, "width": [1, 7, 8, 16, 31, 64, 100, 576, 2048, 20000], "dtype": LIMIT})
def test_equals_the_reference(isa: str, width: int, dtype: str) -> None:
    all_rows, weight = map(np.asarray, inputs((64, width), dtype))
    all_expected = np.asarray(reference.rms_norm(jnp.asarray(all_rows), weight, EPS), np.float32)
    for rows in (1, 2, 17, 64):
        x, expected = all_rows[:rows], all_expected[:rows]
        out = rms_norm(jnp.asarray(x), jnp.asarray(weight), EPS)
        assert out.dtype == x.dtype
        found = np.asarray(out, np.float32)
        np.testing.assert_allclose(found, expected, rtol=LIMIT[dtype], atol=0)
        # Only where the scales differ in their last bit is anything else at all.
        assert dtype == "float32" or (found != expected).mean() < 0.03


@pairwise({"isa": ISAS, "num_threads": THREADS, "dtype": LIMIT})
def test_a_row_has_the_same_bits_in_any_batch(isa: str, num_threads: int, dtype: str) -> None:
    """With rows enough for several tasks, and against one thread and one row."""
    x, weight = inputs((300, 577), dtype)
    together = rms_norm(x, weight, EPS)
    assert as_bytes(rms_norm(x.reshape(3, 100, 577), weight, EPS)) == as_bytes(together)
    cpu_library.start(num_threads=1)
    assert as_bytes(rms_norm(x, weight, EPS)) == as_bytes(together)
    for row in (0, 1, 63, 299):
        assert as_bytes(rms_norm(x[row], weight, EPS)) == as_bytes(together[row])
        assert as_bytes(rms_norm(x[row : row + 1], weight, EPS)) == as_bytes(together[row])


def test_nan_and_inf_stay_in_their_row(isa: str) -> None:
    x, weight = inputs((4, 50), "float32")
    dirty = x.at[1, 3].set(jnp.nan).at[3, 49].set(jnp.inf)
    found = np.asarray(rms_norm(dirty, weight, EPS))
    assert np.isnan(found[1]).all()
    assert np.isnan(found[3, 49])
    np.testing.assert_array_equal(found[[0, 2]], np.asarray(rms_norm(x, weight, EPS))[[0, 2]])


def test_zeros_stay_zeros(isa: str) -> None:
    weight = jnp.full(50, 7.0)
    np.testing.assert_array_equal(rms_norm(jnp.zeros((3, 50)), weight, EPS), 0)
    assert rms_norm(jnp.zeros((0, 50)), weight, EPS).shape == (0, 50)


def test_gradients_are_the_references() -> None:
    x, weight = inputs((3, 5, 24), "float32")
    upstream = jnp.asarray(RNG.standard_normal(x.shape), jnp.float32)

    def loss(norm, x, weight):  # type: ignore[no-untyped-def]
        return jnp.sum(norm(x, weight, EPS) * upstream)

    expected = jax.grad(loss, argnums=(1, 2))(reference.rms_norm, x, weight)
    found = jax.jit(jax.grad(lambda *args: loss(rms_norm, *args), argnums=(0, 1)))(x, weight)
    checkpointed = jax.checkpoint(lambda *args: loss(rms_norm, *args))
    again = jax.jit(jax.grad(checkpointed, argnums=(0, 1)))(x, weight)
    for got in (found, again):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, expected
        )


def test_under_vmap(isa: str) -> None:
    x, _ = inputs((3, 5, 24), "float32")
    weights = jnp.asarray(RNG.standard_normal((3, 24)), jnp.float32)
    found = jax.vmap(lambda x, weight: rms_norm(x, weight, EPS))(x, weights)
    for i in range(3):
        assert as_bytes(found[i]) == as_bytes(rms_norm(x[i], weights[i], EPS))


def test_other_dtypes_go_to_the_reference() -> None:
    x, weight = inputs((2, 9), "float16")
    found = rms_norm(x, weight, EPS)
    assert found.dtype == jnp.float16
    np.testing.assert_array_equal(found, reference.rms_norm(x, weight, EPS))


def test_a_weight_of_another_dtype_is_rounded_to_that_of_x(isa: str) -> None:
    x, weight = inputs((2, 33), "bfloat16")
    wide = weight.astype(jnp.float32) * 1.0001
    assert as_bytes(rms_norm(x, wide, EPS)) == as_bytes(rms_norm(x, wide.astype(jnp.bfloat16), EPS))
