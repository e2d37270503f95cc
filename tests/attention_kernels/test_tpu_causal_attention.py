"""Splash attention behind causal attention, interpreted on a CPU: = the reference."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.attention_kernels.causal_attention import causal_attention, tpu
from flaxen.kernels.backend import Backend


@pytest.mark.parametrize(
    ("N", "K", "H", "T", "packed", "options"),
    [
        (3, 1, 64, 200, True, {}),
        (2, 2, 80, 130, False, {"window": 50, "softcap": 20.0, "scale": 0.2}),
        (4, 2, 40, 130, True, {"chunk": 24, "sinks": jnp.asarray([0.5, -1, 2, 0])}),
    ],
)
def test_equals_the_reference_with_its_gradients(
    N: int, K: int, H: int, T: int, packed: bool, options: dict[str, Any]
) -> None:
    rng = np.random.default_rng(0)
    q, k, v, weights = (
        jnp.asarray(rng.standard_normal((2, T, heads, H)), jnp.bfloat16) for heads in (N, K, K, N)
    )
    ids = jnp.asarray(np.repeat([[1, 2, 3, 0]], 2, 0).repeat([60, T - 90, 20, 10], 1))
    segment_ids = ids if packed else None

    def run(backend: Backend, *inputs: jax.Array) -> tuple[jax.Array, ...]:
        def attend(*inputs: jax.Array) -> jax.Array:
            return causal_attention(*inputs, segment_ids=segment_ids, backend=backend, **options)

        out, pull_back = jax.vjp(attend, *inputs)
        return (out, *pull_back(weights.astype(out.dtype)))

    found = jax.jit(lambda *inputs: run(Backend.TPU, *inputs))(q, k, v)
    wide = [each.astype(jnp.float32) for each in (q, k, v)]
    expected = jax.jit(lambda *inputs: run(Backend.REFERENCE, *inputs))(*wide)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == jnp.bfloat16
        # Results and weights are rounded to bfloat16, whose numbers have 8 digits.
        atol = float(jnp.abs(other).max()) * 2.0**-7
        np.testing.assert_allclose(one.astype(jnp.float32), other, rtol=0, atol=atol)
    if packed:
        assert not np.asarray(found[0][:, -10:], np.float32).any()  # padding


def test_float32_is_the_references() -> None:
    assert tpu.has_kernel(*[jnp.dtype("bfloat16")] * 3)
    assert not tpu.has_kernel(jnp.dtype("bfloat16"), jnp.dtype("float32"))

    def lowered(dtype: str) -> str:
        q = jnp.ones((1, 5, 2, 8), dtype)
        attend = jax.jit(lambda q: causal_attention(q, q, q, backend=Backend.TPU))
        return str(attend.lower(q).as_text(debug_info=True))

    assert "splash" in lowered("bfloat16")
    assert "splash" not in lowered("float32")
