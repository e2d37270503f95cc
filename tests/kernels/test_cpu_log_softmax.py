"""The C++ log-softmax = jax.nn's; a row's bits are its own; gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.kernels.on_cpu import log_softmax


def logits(rows: int, vocab_size: int) -> jax.Array:
    rng = np.random.default_rng(vocab_size)
    return jnp.asarray(rng.standard_normal((rows, vocab_size)) * 8, jnp.float32)


@pytest.mark.parametrize("vocab_size", [1, 5, 16, 37, 300, 49_152])
def test_equals_the_reference(isa: str, vocab_size: int) -> None:
    x = logits(5, vocab_size).at[0, 0].set(-jnp.inf if vocab_size > 1 else 0.0)
    # Sums of up to 49,152 terms in another order, and e^x to two units in the last place.
    expected = jax.nn.log_softmax(x)
    np.testing.assert_allclose(log_softmax(x), expected, rtol=2e-6, atol=2e-6)


def test_a_row_has_the_same_bits_in_any_batch(isa: str, num_threads: int) -> None:
    x = logits(33, 307)
    together = np.asarray(log_softmax(x))
    for rows in (1, 2, 3, 8, 16):
        np.testing.assert_array_equal(np.asarray(log_softmax(x[:rows])), together[:rows])
    np.testing.assert_array_equal(np.asarray(jax.vmap(log_softmax)(x)), together)


def test_nan_stays_in_its_row(isa: str) -> None:
    for column in (0, 36):  # in the vectors, and in what is left over
        found = np.asarray(log_softmax(logits(3, 37).at[1, column].set(jnp.nan)))
        assert np.isnan(found[1]).all()
        assert np.isfinite(found[[0, 2]]).all()


def test_gradients_are_the_references() -> None:
    x, weights = logits(4, 50), logits(4, 51)[:, :50]
    found = jax.grad(lambda x: jnp.sum(log_softmax(x) * weights))(x)
    expected = jax.grad(lambda x: jnp.sum(jax.nn.log_softmax(x) * weights))(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
