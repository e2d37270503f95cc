"""Mosaic compiles splash attention as training calls it, with its gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from flaxen.attention_kernels.causal_attention import causal_attention
from flaxen.kernels.backend import Backend


@pytest.mark.parametrize(
    ("target", "heads", "T", "options"),
    [
        ("v5e-1", (32, 8, 128), 4096, {}),
        ("v5e-1", (9, 3, 64), 2000, {"window": 512}),
        ("v6e-1", (7, 1, 80), 1000, {"softcap": 30.0}),
    ],
)
def test_compiles_with_its_gradient(compile_for, target, heads, T, options):
    N, K, H = heads

    def loss(q, k, v, segment_ids):
        out = causal_attention(q, k, v, segment_ids=segment_ids, backend=Backend.TPU, **options)
        return jnp.sum(out.astype(jnp.float32))

    inputs = [jax.ShapeDtypeStruct((2, T, n, H), jnp.bfloat16) for n in (N, K, K)]
    ids = jax.ShapeDtypeStruct((2, T), jnp.int32)
    compiled = compile_for(target, jax.grad(loss, (0, 1, 2)), *inputs, ids)
    text = compiled.as_text()
    assert all(name in text for name in ("splash_mha_fwd", "splash_mha_dq", "splash_mha_dkv"))
    # All scores at once would be 2 * N * T * T numbers.
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * N * T * T
