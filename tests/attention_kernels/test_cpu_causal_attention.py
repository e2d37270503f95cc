"""The C++ causal attention has paged attention's bits, and the reference's gradients."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.attention_kernels import causal_attention as causal
from flaxen.attention_kernels.paged_attention.cpu import paged_attention
from flaxen.attention_kernels.paged_attention.cpu_pages import empty_pages
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from tests.attention_kernels.paged_batches import OPTIONS, jitted, make_batch, options_for
from tests.kernels.arrays import normal
from tests.kernels.on_cpu import causal_attention
from tests.kernels.pairwise import ISAS, pairwise

pytestmark = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")

# Lengths of the segments of each row; the rest of a row is padding.
ROWS = ([1, 130, 2], [150], [])
T = 150


def make_segment_ids() -> jax.Array:
    ids = np.zeros((len(ROWS), T), np.int32)
    for row, lengths in zip(ids, ROWS, strict=True):
        row[: sum(lengths)] = np.repeat(np.arange(len(lengths)) + 1, lengths)
    return jnp.asarray(ids)


def make_inputs(N: int, K: int, H: int, dtype: str) -> tuple[jax.Array, ...]:
    return tuple(
        normal(f"causal {name}", len(ROWS), T, heads, H, dtype=dtype)
        for name, heads in (("q", N), ("k", K), ("v", K))
    )


@pairwise(
    {
        "isa": ISAS,
        "N, K, H": [(9, 3, 64), (4, 1, 10)],
        "options": OPTIONS,
        "dtype": ["float32", "bfloat16"],
    }
)
def test_bits_are_those_of_paged_attention(
    isa: str, N: int, K: int, H: int, options: str, dtype: str
) -> None:
    q, k, v = make_inputs(N, K, H, dtype)
    found = jitted(causal_attention)(
        q, k, v, segment_ids=make_segment_ids(), **options_for(options, N)
    )
    page_size = 16
    for row, lengths in enumerate(ROWS):
        first = 0
        for length in lengths:
            batch, num_pages = make_batch([(length, length)], page_size, 1)
            pages = empty_pages(num_pages, page_size, K, H, jnp.dtype(dtype)) + jnp.nan
            own = (x[row, first : first + length] for x in (q, k, v))
            alone, _ = paged_attention(*own, pages, batch, **options_for(options, N))
            part = found[row, first : first + length]
            assert np.asarray(part).tobytes() == np.asarray(alone).tobytes()
            first += length
        assert not np.asarray(found[row, first:], np.float32).any()  # padding


@pairwise({"isa": ISAS, "options": OPTIONS, "with_segments": [True, False]})
def test_gradients_are_the_references(isa: str, options: str, with_segments: bool) -> None:
    inputs = make_inputs(6, 2, 16, "float32")
    upstream = normal("causal upstream", *inputs[0].shape)
    segment_ids = make_segment_ids() if with_segments else None

    chosen = options_for(options, 6)
    sinks = chosen.pop("sinks", jnp.zeros(0))

    def gradients(backend: Backend) -> Any:
        def loss(q: jax.Array, k: jax.Array, v: jax.Array, sinks: jax.Array) -> jax.Array:
            given = sinks if sinks.size else None
            out = causal.causal_attention(
                *(q, k, v), segment_ids=segment_ids, sinks=given, **chosen, backend=backend
            )
            return jnp.sum(out * upstream)

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))(*inputs, sinks)

    value, found = gradients(Backend.CPU)
    expected_value, expected = gradients(Backend.REFERENCE)
    np.testing.assert_allclose(value, expected_value, rtol=1e-3, atol=1e-2)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_gradients_of_bfloat16_are_rounded_float32() -> None:
    inputs = make_inputs(6, 2, 16, "bfloat16")
    upstream = normal("causal upstream", *inputs[0].shape)
    segment_ids = make_segment_ids()

    def gradients(*qkv: jax.Array) -> Any:
        def loss(*qkv: jax.Array) -> jax.Array:
            out = causal_attention(*qkv, segment_ids=segment_ids)
            return jnp.sum(out.astype(jnp.float32) * upstream.astype(qkv[0].dtype))

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*qkv)

    narrow = gradients(*inputs)
    wide = gradients(*(x.astype(jnp.float32) for x in inputs))
    for one, other in zip(narrow, wide, strict=True):
        assert one.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(one, np.float32), other, rtol=2.0**-6, atol=0.02)
