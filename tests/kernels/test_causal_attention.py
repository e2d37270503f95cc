"""Packed = alone, and the sliding window, against a loop over tokens."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels.causal_attention import causal_attention


def by_loops(q: np.ndarray, k: np.ndarray, v: np.ndarray, window: int | None) -> np.ndarray:
    """One sequence: q [T, N, H]; k, v [T, K, H]."""
    out = np.zeros_like(q)
    for t in range(q.shape[0]):
        first = 0 if window is None else max(0, t - window + 1)
        for n in range(q.shape[1]):
            kv_head = n * k.shape[1] // q.shape[1]
            scores = k[first : t + 1, kv_head] @ q[t, n] / np.sqrt(q.shape[2])
            weights = np.exp(scores - scores.max())
            out[t, n] = weights / weights.sum() @ v[first : t + 1, kv_head]
    return out


@pytest.mark.parametrize("window", [None, 4])
def test_equals_loops_and_segments_do_not_mix(window: int | None) -> None:
    rng = np.random.default_rng(0)
    lengths = [7, 12, 5]
    q = rng.standard_normal((sum(lengths), 6, 8)).astype(np.float32)
    k, v = (rng.standard_normal((sum(lengths), 2, 8)).astype(np.float32) for _ in range(2))
    ends = np.cumsum(lengths)
    expected = np.concatenate(
        [
            by_loops(q[e - n : e], k[e - n : e], v[e - n : e], window)
            for n, e in zip(lengths, ends, strict=True)
        ]
    )
    segment_ids = jnp.asarray(np.repeat(np.arange(3), lengths))[None]
    got = causal_attention(
        jnp.asarray(q)[None],
        jnp.asarray(k)[None],
        jnp.asarray(v)[None],
        segment_ids=segment_ids,
        window=window,
    )
    np.testing.assert_allclose(got[0], expected, rtol=0, atol=2e-6)
