"""Pages of eight bits with scales: C++ = XLA = GPU; a token's bits are its own; half the memory."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.attention_kernels.paged_attention import (
    blocked,
    cpu,
    cpu_pages,
    empty_cache,
    gpu,
    reference,
)
from flaxen.attention_kernels.paged_attention.pages import KvPages
from flaxen.attention_kernels.paged_attention.scales import dequantize, quantize
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.kernels.paged_batch import PagedBatch
from tests.attention_kernels.paged_batches import (
    CASES,
    HEADS,
    jitted,
    make_batch,
    make_inputs,
    options_for,
)
from tests.kernels.arrays import as_f32, normal
from tests.kernels.pairwise import ISAS, THREADS, pairwise

FORMATS = ["int8", "float8_e4m3fn"]


def scaled_cache(num_pages: int, page_size: int, K: int, H: int, dtype: str) -> KvPages:
    """Pages full of other tokens."""
    arrays = []
    for name in ("keys", "values"):
        tokens = normal(name, num_pages * page_size, K, H)
        numbers, scales = quantize(tokens, jnp.dtype(dtype))
        arrays.append([x.reshape(num_pages, page_size, K, -1) for x in (numbers, scales)])
    (keys, key_scales), (values, value_scales) = arrays
    return KvPages(keys, values, key_scales, value_scales)


@pairwise(
    {
        "isa": ISAS,
        "N, K, H, page_size": HEADS,
        "options": ["plain", "all"],
        "dtype": ["float32", "bfloat16"],
        "stored": FORMATS,
    }
)
def test_the_cpus_kernel_equals_the_reference(
    isa: str, N: int, K: int, H: int, page_size: int, options: str, dtype: str, stored: str
) -> None:
    lengths, num_tokens, num_seqs = CASES["mixed"]
    batch, num_pages = make_batch(lengths, page_size, num_seqs)
    q, k, v, _ = make_inputs(num_tokens, (N, K, H), num_pages, page_size, dtype)
    cache = scaled_cache(num_pages, page_size, K, H, stored)
    chosen = options_for(options, N)
    found, pages = jitted(cpu.paged_attention)(
        q, k, v, cpu_pages.from_reference(cache), batch, **chosen
    )
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), (q, k, v))
    expected, written = jitted(reference.paged_attention)(*wide, cache, batch, **chosen)
    rtol = 1e-5 if dtype == "float32" else 2.0**-8
    np.testing.assert_allclose(as_f32(found), as_f32(expected), rtol=rtol, atol=3e-6)
    for one, other in zip(cpu_pages.to_reference(pages, H), written, strict=True):
        np.testing.assert_array_equal(as_f32(one), as_f32(other))


@pytest.mark.parametrize("stored", FORMATS)
@pytest.mark.parametrize("attend", [blocked.paged_attention, gpu.paged_attention])
@pytest.mark.parametrize("name", ["mixed"])
def test_xla_and_the_gpus_kernels_equal_the_reference(attend: Any, name: str, stored: str) -> None:
    lengths, num_tokens, num_seqs = CASES[name]
    batch, num_pages = make_batch(lengths, 16, num_seqs)
    q, k, v, _ = make_inputs(num_tokens, (4, 2, 64), num_pages, 16, "float32")
    cache = scaled_cache(num_pages, 16, 2, 64, stored)
    chosen = options_for("all", 4)
    found, pages = jitted(attend)(q, k, v, cache, batch, **chosen)
    expected, written = jitted(reference.paged_attention)(q, k, v, cache, batch, **chosen)
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)
    for one, other in zip(pages, written, strict=True):
        np.testing.assert_array_equal(as_f32(one), as_f32(other))


@pytest.mark.parametrize("stored", FORMATS)
def test_what_is_stored_is_near(stored: str) -> None:
    """Half a step of the format at the size of the head's largest number."""
    x = normal("x", 40, 3, 64) * jnp.logspace(-20, 20, 40)[:, None, None]
    numbers, scales = quantize(x, jnp.dtype(stored))
    error = jnp.abs(dequantize(numbers, scales) - x) / jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    assert jnp.max(error) < (0.5 / 127 if stored == "int8" else 2.0**-4) * 1.02
    zeros, none = quantize(jnp.zeros((2, 1, 8)), jnp.dtype(stored))
    assert not as_f32(zeros).any()
    assert not as_f32(none).any()
    with pytest.raises(ValueError, match=rf"pages of {stored} has no derivative, .*dtype auto"):
        jax.grad(lambda x: dequantize(*quantize(x, jnp.dtype(stored))).sum())(x)


def run_whole(sizes: list[int], stored: str, page_size: int = 16, neighbours: int = 0) -> bytes:
    """A sequence computed in chunks of these sizes, beside others, in pages that began as NaN."""
    N, K, H = 6, 2, 24
    total = sum(sizes)
    q, k, v = (
        normal(n, total, heads, H, dtype="bfloat16")
        for n, heads in zip("qkv", (N, K, K), strict=True)
    )
    others = [(1 + i % 3, 40 + 37 * i) for i in range(neighbours)]
    table, num_pages = make_batch([(0, total), *others], page_size, neighbours + 1, seed=neighbours)
    made = cpu_pages.empty_pages(num_pages, page_size, K, H, jnp.dtype(stored))
    pages = jnp.full(made.shape, -1, jnp.int8)  # as a scale: NaN
    pages = jax.lax.bitcast_convert_type(pages, stored)
    outs, done = [], 0
    for size in sizes:
        lengths = [(size, done + size), *others]
        batch = PagedBatch(
            jnp.asarray([kv_len for _, kv_len in lengths], jnp.int32),
            table.page_table,
            jnp.asarray(np.cumsum([0, *(q_len for q_len, _ in lengths)]), jnp.int32),
        )
        extra = sum(q_len for q_len, _ in others)
        chunk = (jnp.concatenate([x[done : done + size], x[:extra]]) for x in (q, k, v))
        out, pages = jitted(cpu.paged_attention)(*chunk, pages, batch, window=200)
        outs.append(np.asarray(out[:size]))
        done += size
    found = np.concatenate(outs)
    assert np.isfinite(found.astype(np.float32)).all()
    return found.tobytes()


@pairwise({"isa": ISAS, "num_threads": THREADS, "stored": FORMATS})
def test_a_tokens_bits_are_its_own_sequences(isa: str, num_threads: int, stored: str) -> None:
    """Whatever the chunks, the pages, the neighbours and the threads."""
    sizes = [200, 1, 5, 90, 1, 17]
    cpu_library.start(num_threads=1)
    whole = run_whole([sum(sizes)], stored)
    cpu_library.start(num_threads=num_threads)
    assert run_whole(sizes, stored) == whole
    assert run_whole(sizes[::-1], stored, page_size=48) == whole
    assert run_whole(sizes, stored, page_size=128, neighbours=20) == whole


@pytest.mark.parametrize("stored", FORMATS)
def test_nan_in_a_key_reaches_only_those_who_see_it(isa: str, stored: str) -> None:
    batch, num_pages = make_batch([(60, 190), (1, 150)], 16, 2)
    q, k, v, _ = make_inputs(61, (4, 2, 16), num_pages, 16, "float32")
    pages = cpu_pages.from_reference(scaled_cache(num_pages, 16, 2, 16, stored))
    clean, _ = cpu.paged_attention(q, k, v, pages, batch)
    found, _ = cpu.paged_attention(q, k.at[33, :, 3].set(jnp.nan), v, pages, batch)
    sees = (np.arange(61) >= 33) & (np.arange(61) < 60)
    assert np.isnan(as_f32(found)[sees]).any(axis=-1).all()
    np.testing.assert_array_equal(as_f32(found)[~sees], as_f32(clean)[~sees])


@pytest.mark.parametrize("backend", [Backend.REFERENCE, Backend.CPU, Backend.GPU])
@pytest.mark.parametrize("stored", FORMATS)
def test_pages_take_half_of_bfloat16(backend: Backend, stored: str) -> None:
    def num_bytes(dtype: str) -> int:
        pages = empty_cache(8, 16, 3, 64, jnp.dtype(dtype), backend=backend)
        return sum(each.nbytes for each in jax.tree.leaves(pages))

    assert num_bytes(stored) / num_bytes("bfloat16") == 66 / 128


def test_a_derivative_is_refused() -> None:
    batch, num_pages = make_batch([(3, 3)], 16, 1)
    q, k, v, _ = make_inputs(3, (2, 1, 16), num_pages, 16, "float32")
    pages = cpu_pages.from_reference(scaled_cache(num_pages, 16, 1, 16, "int8"))
    with pytest.raises(ValueError, match="pages of int8 has no derivative"):
        jax.grad(lambda q: cpu.paged_attention(q, k, v, pages, batch)[0].sum())(q)
