"""Bidirectional attention: each token sees its own segment; C++ = reference; a segment's bits are
its own.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.attention_kernels.bidirectional_attention import bidirectional_attention, reference
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from tests.kernels.pairwise import ISAS, THREADS, pairwise

RNG = np.random.default_rng(6)
LIMIT = {"float32": 2e-6, "bfloat16": 2.0**-6}
IDS = jnp.asarray([[1] * 5 + [2] * 40 + [0] * 3 + [3] + [4] * 12 + [0] * 2] * 2, jnp.int32)


def inputs(
    *shape: int, kv_heads: int, dtype: str = "float32"
) -> tuple[jax.Array, jax.Array, jax.Array]:
    B, T, N, H = shape
    q = jnp.asarray(RNG.standard_normal((B, T, N, H)), dtype)
    k, v = jnp.asarray(RNG.standard_normal((2, B, T, kv_heads, H)), dtype)
    return q, k, v


def attend(*args: jax.Array, backend: Backend = Backend.CPU, **options: object) -> jax.Array:
    return bidirectional_attention(*args, backend=backend, **options)  # type: ignore[arg-type]


def test_each_token_sees_its_own_segment() -> None:
    q, k, v = inputs(1, 6, 2, 8, kv_heads=1)
    ids = jnp.asarray([[1, 1, 0, 2, 2, 2]])
    out = attend(q, k, v, segment_ids=ids, backend=Backend.REFERENCE)
    for first, last in ((0, 2), (3, 6)):
        own = [np.asarray(each[0, first:last], np.float64) for each in (q, k, v)]
        scores = np.einsum("tnh,sh->nts", own[0], own[1][:, 0]) * 8**-0.5
        weights = np.exp(scores)
        weights /= weights.sum(-1, keepdims=True)
        expected = np.einsum("nts,sh->tnh", weights, own[2][:, 0])
        np.testing.assert_allclose(out[0, first:last], expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(out[0, 2], 0)


@pairwise(
    {
        "isa": ISAS,
        "num_threads": THREADS,
        "heads": [(2, 2), (6, 2), (3, 1)],
        "H": [4, 5, 16, 32, 64, 80],
        "window": [None, 1, 7],
        "dtype": LIMIT,
    }
)
def test_equals_the_reference(
    isa: str,
    num_threads: int,
    heads: tuple[int, int],
    H: int,
    window: int | None,
    dtype: str,
) -> None:
    args = inputs(2, IDS.shape[1], heads[0], H, kv_heads=heads[1], dtype=dtype)
    options = {"segment_ids": IDS, "window": window, "scale": 0.3}
    out = attend(*args, **options)
    assert out.dtype == jnp.dtype(dtype)
    expected = np.asarray(attend(*args, **options, backend=Backend.REFERENCE), np.float32)
    np.testing.assert_allclose(np.asarray(out, np.float32), expected, rtol=0, atol=LIMIT[dtype])


@pairwise({"isa": ISAS, "window": [None, 9], "dtype": LIMIT})
def test_a_segment_has_the_same_bits_in_any_batch(isa: str, window: int | None, dtype: str) -> None:
    args = inputs(2, IDS.shape[1], 4, 32, kv_heads=2, dtype=dtype)
    packed = np.asarray(attend(*args, segment_ids=IDS, window=window))
    cpu_library.start(num_threads=1)
    for first, last in ((0, 5), (5, 45), (48, 49)):
        alone = attend(*(each[1:, first:last] for each in args), window=window)
        assert np.asarray(alone).tobytes() == packed[1:, first:last].tobytes()


def test_nan_stays_in_its_segment(isa: str) -> None:
    q, k, v = inputs(1, IDS.shape[1], 2, 8, kv_heads=2)
    clean = np.asarray(attend(q, k, v, segment_ids=IDS[:1]))
    dirty = np.asarray(
        attend(q, k.at[0, 7].set(jnp.nan), v.at[0, 46].set(jnp.nan), segment_ids=IDS[:1])
    )
    np.testing.assert_array_equal(dirty[0, :5], clean[0, :5])
    np.testing.assert_array_equal(dirty[0, 45:], clean[0, 45:])
    assert np.isnan(dirty[0, 5:45]).all()


def test_gradients_are_the_references() -> None:
    args = inputs(2, IDS.shape[1], 4, 8, kv_heads=2)
    upstream = jnp.asarray(RNG.standard_normal(args[0].shape), jnp.float32)

    def loss(backend: Backend, *args: jax.Array) -> jax.Array:
        return jnp.sum(attend(*args, segment_ids=IDS, backend=backend) * upstream)

    found, expected = (
        jax.jit(jax.grad(loss, argnums=(1, 2, 3)), static_argnums=0)(backend, *args)
        for backend in (Backend.CPU, Backend.REFERENCE)
    )
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_other_dtypes_go_to_the_reference() -> None:
    args = inputs(1, 4, 2, 8, kv_heads=2, dtype="float16")
    found = attend(*args)
    assert found.dtype == jnp.float16
    expected = reference.bidirectional_attention(*args, None, None, 8**-0.5)
    np.testing.assert_array_equal(found, expected)


def test_shapes_that_do_not_match_are_refused() -> None:
    q, k, v = inputs(1, 4, 3, 8, kv_heads=2)
    with pytest.raises(ValueError, match="N a multiple of K"):
        attend(q, k, v)
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        attend(q[:, :, :2], k, v, window=0)
