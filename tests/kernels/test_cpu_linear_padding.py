"""Padding has no gradient, whatever the memory held before."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels import cpu_library
from tests.kernels.on_cpu import gated_linear, pack

pytestmark = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")

T, D, F = 64, 48, 96
NUM_LIVE = 40


def leave_nan(*shape: int) -> None:
    """Frees memory that holds NaN, in pieces of a size that is wanted next."""
    held = [jnp.full(shape, jnp.nan, jnp.float32) for _ in range(24)]
    jax.block_until_ready(held)
    del held


def test_gate_and_up_of_padding_are_no_gradient() -> None:
    rng = np.random.default_rng(0)
    x, cotangent = rng.normal(size=(T, D)), np.ones((T, F))
    x[NUM_LIVE:] = cotangent[NUM_LIVE:] = 0
    gate, up = (pack(jnp.asarray(rng.normal(size=(D, F)), jnp.float32)) for _ in range(2))

    def gradients(num_rows: int) -> list[jax.Array]:
        rows, rows_bar = (jnp.asarray(each[:num_rows], jnp.float32) for each in (x, cotangent))
        leave_nan(T, F)
        _, pull_back = jax.vjp(gated_linear, rows, gate, up)
        x_bar, gate_bar, up_bar = pull_back(rows_bar)
        return [x_bar[:NUM_LIVE], gate_bar.data, up_bar.data]

    for _ in range(4):
        for found, expected in zip(gradients(T), gradients(NUM_LIVE), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
