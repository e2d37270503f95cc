"""The TPU's paged attention, interpreted on a CPU: = the reference, and what a row depends on.

To interpret a kernel is to compile it for seconds, so the batches of all cases have one shape, and
the axes are crossed by hand. What the compiler for TPUs says of the kernel: tests/tpu.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.attention_kernels.paged_attention import has_pages, reference, tpu
from flaxen.attention_kernels.paged_attention.tpu import (
    from_reference,
    paged_attention,
    to_reference,
)
from flaxen.kernels.backend import Backend
from flaxen.kernels.paged_batch import PagedBatch
from tests.attention_kernels.paged_batches import (
    CASES,
    Lengths,
    jitted,
    make_batch,
    make_inputs,
    options_for,
)
from tests.kernels.arrays import as_f32, normal

T, S = 105, 32
# For all cases, by page size: the pages that there are, and those of one sequence.
NUM_PAGES = {16: 120, 32: 70, 64: 50, 128: 45}
MAX_PAGES = {16: 41, 32: 21, 64: 11, 128: 6}
LENGTHS: dict[str, Lengths] = {
    **{name: lengths for name, (lengths, _, _) in CASES.items()},
    # Several query blocks that start in the middle of a tile, over the end of a key block.
    "long": [(1, 620), (100, 560), (2, 513)],
}


def padded_batch(lengths: Lengths, page_size: int) -> PagedBatch:
    batch, num_pages = make_batch(lengths, page_size, S)
    assert num_pages <= NUM_PAGES[page_size]
    rest = MAX_PAGES[page_size] - batch.page_table.shape[1]
    return batch._replace(
        page_table=jnp.pad(batch.page_table, ((0, 0), (0, rest)), constant_values=10**9)
    )


@pytest.mark.parametrize(
    ("heads", "page_size", "dtype", "page_dtype", "options"),
    [
        ((9, 3, 64), 16, "float32", "float32", "all"),
        ((2, 1, 256), 128, "float32", "float32", "plain"),
        ((6, 2, 40), 16, "float32", "float32", "chunk"),
        ((8, 4, 80), 32, "bfloat16", "bfloat16", "all"),
        ((4, 1, 128), 64, "bfloat16", "bfloat16", "window"),
        ((4, 1, 64), 16, "bfloat16", "float8_e4m3fn", "plain"),
        ((2, 2, 96), 64, "bfloat16", "float8_e4m3fn", "all"),
    ],
)
def test_equals_the_reference(
    heads: tuple[int, int, int], page_size: int, dtype: str, page_dtype: str, options: str
) -> None:
    chosen = options_for(options, heads[0])
    q, k, v, cache = make_inputs(T, heads, NUM_PAGES[page_size], page_size, dtype)
    cache = jax.tree.map(lambda each: each.astype(page_dtype), cache)

    def rounded(x: jax.Array) -> jax.Array:
        return x.astype(page_dtype).astype(jnp.float32)

    wide = q.astype(jnp.float32), rounded(k), rounded(v), jax.tree.map(rounded, cache)
    for lengths in LENGTHS.values():
        batch = padded_batch(lengths, page_size)
        pages = from_reference(cache)
        found, pages = jitted(paged_attention)(q, k, v, pages, batch, **chosen)
        expected, expected_cache = jitted(reference.paged_attention)(*wide, batch, **chosen)
        assert found.dtype == q.dtype
        # In bfloat16 the weights of the sum are rounded, as in the reference for bfloat16.
        rtol, atol = (1e-5, 3e-6) if dtype == "float32" else (2.0**-8, 1e-2)
        np.testing.assert_allclose(as_f32(found), as_f32(expected), rtol=rtol, atol=atol)
        for one, other in zip(to_reference(pages, heads[2]), expected_cache, strict=True):
            np.testing.assert_array_equal(as_f32(one), as_f32(other))
        num_new = sum(q_len for q_len, _ in lengths)
        assert not as_f32(found)[num_new:].any()  # padding


HEADS = (4, 2, 64)
STEP = jax.jit(paged_attention, donate_argnums=3)


def run(lengths: Lengths, pages: jax.Array, table: jax.Array, rows: list[jax.Array]) -> tuple:
    """One step of up to T tokens, and the pages after it."""
    padding = [0] * (S - len(lengths))
    batch = PagedBatch(
        jnp.asarray([*(kv_len for _, kv_len in lengths), *padding], jnp.int32),
        table,
        jnp.asarray(np.cumsum([0, *(q_len for q_len, _ in lengths), *padding]), jnp.int32),
    )
    padded = [jnp.pad(x, ((0, T - x.shape[0]), (0, 0), (0, 0))) for x in rows]
    return STEP(*padded, pages, batch)


def in_chunks(sizes: list[int], others: Lengths) -> np.ndarray:
    """A sequence computed in chunks of these sizes, beside others, over pages full of NaN."""
    N, K, H = HEADS
    q, k, v = (normal(name, 90, heads, H) for name, heads in (("q", N), ("k", K), ("v", K)))
    table = padded_batch([(0, 90), *others], 16).page_table
    pages = jnp.full((NUM_PAGES[16], K, 16, 128), jnp.nan)
    outs, done = [], 0
    for size in sizes:
        lengths = [(size, done + size), *others]
        num_others = sum(q_len for q_len, _ in others)
        rows = [jnp.concatenate([x[done : done + size], x[:num_others]]) for x in (q, k, v)]
        out, pages = run(lengths, pages, table, rows)
        outs.append(np.asarray(out[:size]))
        done += size
    return np.concatenate(outs)


def test_a_tokens_bits_are_its_own_sequences() -> None:
    """Also beside sequences whose own keys are NaN; the pages were never written before."""
    alone = in_chunks([90], [])
    assert np.isfinite(alone).all()
    np.testing.assert_array_equal(in_chunks([90], [(1, 40), (3, 77), (11, 11)]), alone)
    # A decode multiplies fewer rows at once, which XLA's product on a CPU may sum in another order.
    np.testing.assert_allclose(in_chunks([40, 1, 1, 2, 46], [(9, 9)]), alone, rtol=0, atol=1e-6)


def test_pages_are_written_in_place() -> None:
    batch = padded_batch([(5, 20)], 16)
    q, k, v, cache = make_inputs(T, HEADS, NUM_PAGES[16], 16, "float32")
    pages = from_reference(cache)
    for _ in range(2):  # the first may move what was not made by the same program
        before = pages.unsafe_buffer_pointer()
        _, pages = STEP(q, k, v, pages, batch)
    assert pages.unsafe_buffer_pointer() == before


def test_small_heads_share_a_tile() -> None:
    pages = jax.eval_shape(lambda: tpu.empty_pages(7, 16, 3, 64, jnp.dtype("bfloat16")))
    assert pages.shape == (7, 3, 16, 128)
    pages = jax.eval_shape(lambda: tpu.empty_pages(7, 16, 3, 80, jnp.dtype("bfloat16")))
    assert pages.shape == (7, 3, 16, 256)


def test_what_heads_there_are() -> None:
    for dtype in tpu.DTYPES:
        assert has_pages(256, jnp.dtype(dtype), backend=Backend.TPU)
    assert not has_pages(512, jnp.dtype("bfloat16"), backend=Backend.TPU)
    assert not has_pages(64, jnp.dtype("float16"), backend=Backend.TPU)


def test_pages_that_the_kernel_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match="page size of 16, 32, 64 or 128 tokens, got 48"):
        tpu.empty_pages(4, 48, 1, 64, jnp.dtype("float32"))
    with pytest.raises(
        ValueError, match=r"not heads of 64 in float16: compute by XLA .FLAXEN_CPU_ISA=xla"
    ):
        tpu.empty_pages(4, 16, 1, 64, jnp.dtype("float16"))
    with pytest.raises(ValueError, match=r"heads of up to 256 .* not heads of 512 in bfloat16"):
        tpu.empty_pages(4, 16, 1, 512, jnp.dtype("bfloat16"))


def abstract(num_pages_of_a_sequence: int, lanes: int) -> tuple:
    def array(*shape: int, dtype: str = "float32") -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    batch = PagedBatch(
        array(64, dtype="int32"),
        array(64, num_pages_of_a_sequence, dtype="int32"),
        array(65, dtype="int32"),
    )
    return array(8, 2, 64), array(8, 1, 64), array(8, 1, 64), array(4, 1, 16, lanes), batch


def test_pages_of_other_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="pages of 256 lanes do not hold heads of 64"):
        jax.eval_shape(paged_attention, *abstract(8, 256))


def test_a_page_table_beyond_the_scalar_memory_is_refused() -> None:
    with pytest.raises(ValueError, match=r"table of 262144 entries .*--page-size 128"):
        jax.eval_shape(paged_attention, *abstract(4096, 128))
