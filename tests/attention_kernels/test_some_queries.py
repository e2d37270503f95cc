"""Attention of some of a row's queries is that part of the whole row's, with its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.attention_kernels.causal_attention import causal_attention
from flaxen.kernels.backend import Backend

B, S, N, K, H = 2, 24, 4, 2, 8


def arrays() -> tuple[jax.Array, jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    shapes = [(B, S, N, H), (B, S, K, H), (B, S, K, H)]
    q, k, v = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    return q, k, v


@pytest.mark.parametrize(
    ("first", "count", "is_packed", "options"),
    [
        (6, 6, True, {"window": 5}),
        (12, 12, False, {"softcap": 2.0, "scale": 0.3}),
        (0, 8, True, {"softcap": 1.0}),
        (6, 6, True, {"chunk": 4}),
    ],
)
def test_a_part_of_the_queries(
    first: int, count: int, is_packed: bool, options: dict[str, Any]
) -> None:
    segments = [[1] * 9 + [2] * 10 + [0] * 5, [1] * 24]
    ids = jnp.asarray(segments, jnp.int32) if is_packed else None
    own = slice(first, first + count)
    given = options | {"segment_ids": ids, "backend": Backend.REFERENCE}

    def whole(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return causal_attention(q, k, v, **given)[:, own]

    def part(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return causal_attention(q[:, own], k, v, first_query=jnp.int32(first), **given)

    def with_gradient(attend: Callable[..., jax.Array]) -> list[jax.Array]:
        out, pull_back = jax.vjp(attend, *arrays())
        return [out, *pull_back(jnp.cos(out))]

    expected, found = (jax.jit(with_gradient, static_argnums=0)(each) for each in (whole, part))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_keys_of_another_length_need_the_place_of_the_queries() -> None:
    q, k, v = arrays()
    with pytest.raises(ValueError, match=r"and S = T unless first_query is given"):
        causal_attention(q[:, :8], k, v, backend=Backend.REFERENCE)


def test_the_cpu_kernels_compute_whole_rows() -> None:
    q, k, v = arrays()
    with pytest.raises(ValueError, match="attention of some queries has no implementation for the"):
        causal_attention(q[:, :8], k, v, first_query=jnp.int32(0), backend=Backend.CPU)
