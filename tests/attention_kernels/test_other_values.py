"""Values of another size than keys, and values that are the first numbers of the keys (latents)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.attention_kernels import paged_attention as ops
from flaxen.attention_kernels.causal_attention import causal_attention
from flaxen.attention_kernels.paged_attention import KvPages, blocked, cpu, cpu_pages, reference
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.kernels.paged_batch import PagedBatch
from tests.attention_kernels.paged_batches import CASES, OPTIONS, jitted, make_batch, options_for
from tests.kernels import on_cpu
from tests.kernels.arrays import as_f32, normal
from tests.kernels.pairwise import ISAS, THREADS, pairwise


class Heads(NamedTuple):
    """Sizes of heads; a latent's values are the first V numbers of its key."""

    N: int
    K: int
    H: int
    V: int
    is_latent: bool


HEADS = [
    Heads(4, 2, 24, 16, False),
    Heads(6, 3, 16, 42, False),
    Heads(8, 1, 40, 24, True),
    Heads(4, 2, 38, 37, True),
    Heads(16, 1, 576, 512, True),
]
PAGE_SIZE = 16


def make(heads: Heads, num_tokens: int, num_pages: int, dtype: str) -> tuple[Any, ...]:
    """Queries, keys, values or None, and pages of the reference."""
    N, K, H, V, is_latent = heads
    pages = num_pages, PAGE_SIZE, K
    keys = normal("keys", *pages, H, dtype=dtype)
    return (
        normal("q", num_tokens, N, H, dtype=dtype),
        normal("k", num_tokens, K, H, dtype=dtype),
        None if is_latent else normal("v", num_tokens, K, V, dtype=dtype),
        KvPages(keys, None if is_latent else normal("values", *pages, V, dtype=dtype)),
    )


def given(heads: Heads, options: str) -> dict[str, Any]:
    return options_for(options, heads.N) | ({"value_dim": heads.V} if heads.is_latent else {})


@pairwise(
    {"isa": ISAS, "heads": HEADS, "options": OPTIONS, "dtype": ["float32", "bfloat16"]},
)
def test_the_cpu_kernel_equals_the_reference(
    isa: str, heads: Heads, options: str, dtype: str
) -> None:
    lengths, num_tokens, num_seqs = CASES["mixed"]
    batch, num_pages = make_batch(lengths, PAGE_SIZE, num_seqs)
    *qkv, cache = make(heads, num_tokens, num_pages, dtype)
    chosen = given(heads, options)
    found, pages = jitted(cpu.paged_attention)(
        *qkv, cpu_pages.from_reference(cache), batch, **chosen
    )
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), (*qkv, cache))
    expected, expected_cache = jitted(reference.paged_attention)(*wide, batch, **chosen)
    assert found.dtype == dtype
    assert found.shape == (num_tokens, heads.N, heads.V)
    rtol = 1e-5 if dtype == "float32" else 2.0**-8
    np.testing.assert_allclose(as_f32(found), as_f32(expected), rtol=rtol, atol=4e-6)
    written = cpu_pages.to_reference(pages, heads.H, 0 if heads.is_latent else heads.V)
    jax.tree.map(np.testing.assert_array_equal, as_f32(written), as_f32(expected_cache))


@pairwise({"name": ["decodes", "mixed"], "heads": HEADS[:4], "options": OPTIONS})
def test_blocked_equals_the_reference(name: str, heads: Heads, options: str) -> None:
    lengths, num_tokens, num_seqs = CASES[name]
    batch, num_pages = make_batch(lengths, PAGE_SIZE, num_seqs)
    inputs = make(heads, num_tokens, num_pages, "float32")
    chosen = given(heads, options)
    found, cache = jitted(blocked.paged_attention)(*inputs, batch, **chosen)
    expected, expected_cache = jitted(reference.paged_attention)(*inputs, batch, **chosen)
    np.testing.assert_allclose(found, expected, rtol=0, atol=4e-6)
    jax.tree.map(np.testing.assert_array_equal, cache, expected_cache)


@pytest.mark.parametrize("backend", ops.OF_OTHER_VALUES)
@pytest.mark.parametrize("heads", [HEADS[0], HEADS[2]])
def test_each_backend_has_them(backend: Backend, heads: Heads) -> None:
    lengths, num_tokens, num_seqs = CASES["decodes"]
    batch, num_pages = make_batch(lengths, PAGE_SIZE, num_seqs)
    *qkv, _ = make(heads, num_tokens, num_pages, "float32")
    value_dim = 0 if heads.is_latent else heads.V
    empty = ops.empty_cache(
        *(num_pages, PAGE_SIZE, heads.K, heads.H, jnp.dtype("float32")),
        value_dim=value_dim,
        backend=backend,
    )
    numbers = num_pages * PAGE_SIZE * heads.K * (heads.H + value_dim)
    assert sum(each.size for each in jax.tree.leaves(empty)) == numbers
    assert ops.has_pages(heads.H, jnp.dtype("float32"), value_dim=value_dim, backend=backend)
    cache = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), empty)
    chosen = given(heads, "chunk")
    found, _ = ops.paged_attention(*qkv, cache, batch, backend=backend, **chosen)
    shape = num_pages, PAGE_SIZE, heads.K
    values = None if heads.is_latent else jnp.zeros((*shape, heads.V))
    zeros = KvPages(jnp.zeros((*shape, heads.H)), values)
    expected, _ = reference.paged_attention(*qkv, zeros, batch, **chosen)
    np.testing.assert_allclose(found, expected, rtol=0, atol=4e-6)


def test_what_has_no_meaning_is_refused() -> None:
    batch, num_pages = make_batch([(2, 2)], PAGE_SIZE, 1)
    q, k, _, cache = make(HEADS[2], 2, num_pages, "float32")
    with pytest.raises(ValueError, match=r"keys of 40 numbers are .*got value_dim=None"):
        ops.paged_attention(q, k, None, cache, batch, backend=Backend.REFERENCE)
    with pytest.raises(ValueError, match=r"keys of 40 numbers are .*got value_dim=41"):
        ops.paged_attention(q, k, None, cache, batch, value_dim=41, backend=Backend.REFERENCE)
    with pytest.raises(ValueError, match="need pages with value_dim=0, and no others do"):
        ops.paged_attention(q, k, k[..., :24], cache, batch, backend=Backend.REFERENCE)
    with pytest.raises(ValueError, match="has no implementation for the backend gpu-invariant"):
        ops.empty_cache(
            *(4, 16, 1, 40, jnp.dtype("float32")), value_dim=0, backend=Backend.GPU_INVARIANT
        )


LENGTH = 300


def in_chunks(heads: Heads, sizes: list[int], dtype: str, neighbours: int, chunk: int) -> bytes:
    """A sequence computed in chunks of these sizes, beside others, over pages full of NaN."""
    q, k, v, _ = make(heads, LENGTH, 1, dtype)
    others = [(1 + i % 3, 40 + 37 * i) for i in range(neighbours)]
    batch, num_pages = make_batch([(0, LENGTH), *others], PAGE_SIZE, neighbours + 1, neighbours)
    value_dim = 0 if heads.is_latent else heads.V
    pages = cpu_pages.empty_pages(
        *(num_pages, PAGE_SIZE, heads.K, heads.H, jnp.dtype(dtype)), value_dim
    )
    pages = jnp.full(pages.shape, jnp.nan, pages.dtype)
    outs, done = [], 0
    for size in sizes:
        lengths = [(size, done + size), *others]
        step = PagedBatch(
            jnp.asarray([kv_len for _, kv_len in lengths], jnp.int32),
            batch.page_table,
            jnp.asarray(np.cumsum([0, *(q_len for q_len, _ in lengths)]), jnp.int32),
        )
        extra = sum(q_len for q_len, _ in others)
        rows = [*range(done, done + size), *range(extra)]
        own = [None if x is None else x[jnp.asarray(rows)] for x in (q, k, v)]
        options = given(heads, "plain") | {"chunk": chunk}
        out, pages = jitted(cpu.paged_attention)(*own, pages, step, **options)
        outs.append(np.asarray(out[:size]))
        done += size
    return np.concatenate(outs).tobytes()


@pairwise(
    {
        "isa": ISAS,
        "num_threads": THREADS,
        "heads, chunk": [(HEADS[0], 100), (HEADS[2], 1000), (HEADS[4], 130)],
        "dtype": ["float32", "bfloat16"],
    }
)
def test_a_tokens_bits_are_its_own(
    isa: str, num_threads: int, heads: Heads, chunk: int, dtype: str
) -> None:
    cpu_library.start(num_threads=1)
    whole = in_chunks(heads, [LENGTH], dtype, 0, chunk)
    cpu_library.start(num_threads=num_threads)
    assert in_chunks(heads, [100, 1, 199], dtype, 2, chunk) == whole
    q, k, v, _ = make(heads, LENGTH, 1, dtype)
    rows = [None if x is None else x[None] for x in (q, k, v)]
    options = given(heads, "plain") | {"chunk": chunk}
    trained = jitted(on_cpu.causal_attention)(*rows, **options)
    assert np.asarray(trained[0]).tobytes() == whole


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("heads", [HEADS[0], HEADS[2], Heads(4, 2, 12, 20, False)])
def test_gradients_are_the_references(heads: Heads, options: str) -> None:
    q, k, v, _ = (None if x is None else x for x in make(heads, 70, 1, "float32"))
    ids = jnp.asarray([1] * 20 + [2] * 45 + [0] * 5)[None]
    upstream = normal("upstream", 1, 70, heads.N, heads.V)
    chosen = given(heads, options)
    sinks = chosen.pop("sinks", None)

    def gradients(backend: Backend) -> Any:
        def loss(trained: Any) -> jax.Array:
            q, k, v, sinks = trained
            out = causal_attention(q, k, v, sinks=sinks, segment_ids=ids, **chosen, backend=backend)
            return jnp.sum(out * upstream)

        rows = [None if x is None else x[None] for x in (q, k, v)]
        return jax.jit(jax.grad(loss))((*rows, sinks))

    found, expected = gradients(Backend.CPU), gradients(Backend.REFERENCE)
    assert len(jax.tree.leaves(found)) == 2 + (v is not None) + (sinks is not None)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.asarray(other).any()
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("backend", [Backend.REFERENCE, Backend.GPU, Backend.TPU])
def test_values_of_the_keys_size_need_no_kernel_for_others(backend: Backend) -> None:
    def shapes(value_dim: int | None) -> list[tuple[int, ...]]:
        pages = jax.eval_shape(
            lambda: ops.empty_cache(
                *(4, 16, 2, 64, jnp.dtype(jnp.bfloat16)), value_dim=value_dim, backend=backend
            )
        )
        return [each.shape for each in jax.tree.leaves(pages)]

    assert shapes(64) == shapes(None)
