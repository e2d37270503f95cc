"""Packed = alone, the sliding window and padding, against a loop over tokens."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.attention_kernels.causal_attention import causal_attention
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend


@pytest.fixture(params=[Backend.REFERENCE, Backend.CPU])
def backend(request: pytest.FixtureRequest) -> Backend:
    """XLA, or the C++ kernels."""
    if request.param is Backend.CPU and not cpu_library.is_built():
        pytest.skip("the library was not built")
    chosen: Backend = request.param
    return chosen


def by_loops(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    window: int | None = None,
    chunk: int | None = None,
    softcap: float | None = None,
    sinks: np.ndarray | None = None,
) -> np.ndarray:
    """One sequence: q [T, N, H]; k [T, K, H]; v [T, K, V]."""
    out = np.zeros((*q.shape[:2], v.shape[2]), q.dtype)
    for t in range(q.shape[0]):
        first = 0 if window is None else max(0, t - window + 1)
        first = first if chunk is None else max(first, t // chunk * chunk)
        for n in range(q.shape[1]):
            kv_head = n * k.shape[1] // q.shape[1]
            scores = k[first : t + 1, kv_head] @ q[t, n] / np.sqrt(q.shape[2])
            if softcap is not None:
                scores = softcap * np.tanh(scores / softcap)
            weights = np.exp(scores)
            total = weights.sum() + (0 if sinks is None else np.exp(sinks[n]))
            out[t, n] = weights / total @ v[first : t + 1, kv_head]
    return out


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"window": 4},
        {"softcap": 1.5},
        {"window": 4, "softcap": 1.5},
        {"chunk": 5},
        {"chunk": 4, "window": 3, "softcap": 1.5, "sinks": np.linspace(-1, 3, 6)},
    ],
)
@pytest.mark.parametrize("value_dim", [8, 6, 12])
def test_equals_loops_and_segments_do_not_mix(
    backend: Backend, options: dict[str, Any], value_dim: int
) -> None:
    rng = np.random.default_rng(0)
    lengths, padding = [7, 12, 5], 3
    size = sum(lengths) + padding
    q = rng.standard_normal((size, 6, 8)).astype(np.float32)
    k, v = (rng.standard_normal((size, 2, H)).astype(np.float32) for H in (8, value_dim))
    ends = np.cumsum(lengths)
    expected = np.concatenate(
        [
            *(
                by_loops(q[e - n : e], k[e - n : e], v[e - n : e], **options)
                for n, e in zip(lengths, ends, strict=True)
            ),
            np.zeros((padding, 6, value_dim), np.float32),
        ]
    )
    segment_ids = jnp.asarray(np.repeat([1, 2, 3, 0], [*lengths, padding]))[None]
    got = causal_attention(
        *(jnp.asarray(x)[None] for x in (q, k, v)),
        segment_ids=segment_ids,
        **jax.tree.map(lambda x: x if np.isscalar(x) else jnp.asarray(x, jnp.float32), options),
        backend=backend,
    )
    np.testing.assert_allclose(got[0], expected, rtol=0, atol=2e-6)
    assert not got[0, -padding:].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sinks": jnp.zeros(3)}, r"there is a sink for each of the 4 query heads, got \(3,\)"),
        ({"chunk": 0}, "the chunk must be at least 1, got 0: None sees all tokens"),
        ({"window": 0}, "the window must be at least 1, got 0: None sees all tokens"),
        ({"softcap": 0.0}, "the softcap must be above 0, got 0.0: None leaves the scores"),
        ({"heads": 3}, r"q \(1, 4, 3, 8\) does not go with k \(1, 4, 2, 8\) and v \(1, 4, 2, 8\)"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str) -> None:
    q = jnp.zeros((1, 4, changes.pop("heads", 4), 8))
    k = jnp.zeros((1, 4, 2, 8))
    with pytest.raises(ValueError, match=message):
        causal_attention(q, k, k, **changes, backend=Backend.REFERENCE)
