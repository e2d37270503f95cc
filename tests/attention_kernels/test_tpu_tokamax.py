"""Attention by tokamax: our order of sequences and pages, around its own reference or a stand-in.

tokamax needs Python 3.12 and a newer jax than 3.11 has. The stand-in has its signature and its
pages, and computes by our reference; it insists on what tokamax's kernel relies on.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.attention_kernels.paged_attention import KvPages, empty_cache, reference, tpu_tokamax
from flaxen.kernels.backend import Backend
from flaxen.kernels.choice import is_tokamax_installed
from flaxen.kernels.paged_batch import PagedBatch
from tests.attention_kernels.paged_batches import CASES, make_batch, make_inputs
from tests.kernels.arrays import as_f32

LENGTHS = {**CASES, "decodes between": ([(3, 3), (1, 9), (2, 40), (1, 1), (4, 20)], 16, 8)}


def stand_in(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    pages: jax.Array,
    kv_lens: jax.Array,
    table: jax.Array,
    cu_q_lens: jax.Array,
    distribution: jax.Array,
    *,
    sm_scale: float,
    sliding_window: int | None,
    soft_cap: float | None,
) -> tuple[jax.Array, jax.Array]:
    num_decodes, num_prefills, num_sequences = np.asarray(distribution).tolist()
    q_lens = np.diff(cu_q_lens)
    assert num_decodes == num_prefills
    assert (q_lens[:num_decodes] == 1).all()
    assert (q_lens[num_decodes:num_sequences] > 1).all()
    assert not q_lens[num_sequences:].any()
    batch = PagedBatch(kv_lens, table.reshape(len(kv_lens), -1), cu_q_lens)
    H = q.shape[2]
    out, cache = reference.paged_attention(
        *(q, k, v, KvPages(pages[:, :, ::2, :H], pages[:, :, 1::2, :H]), batch),
        window=sliding_window, scale=sm_scale, softcap=soft_cap,
    )  # fmt: skip
    padding = jnp.isnan(jnp.where(jnp.arange(len(q)) < cu_q_lens[-1], 0, jnp.nan))
    # The kernel leaves anything in the rows of padding.
    return jnp.where(padding[:, None, None], jnp.nan, out), as_tokamax(cache)


def as_tokamax(cache: KvPages) -> jax.Array:
    num_pages, page_size, K, H = cache[0].shape
    pairs = jnp.stack([cache.keys, cache.values], axis=3).reshape(num_pages, page_size, 2 * K, H)
    return jnp.pad(pairs, ((0, 0), (0, 0), (0, 0), (0, 128 - H)))


def runs() -> list[Any]:
    if not is_tokamax_installed():
        return [stand_in]
    from tokamax import ops

    return [stand_in, functools.partial(ops.ragged_paged_attention, implementation="reference")]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mixed", {"window": 30, "scale": 0.3, "softcap": 2.0}),
        ("many", {}),
        ("decodes between", {}),
    ],
)
def test_equals_the_reference(name: str, options: dict[str, Any]) -> None:
    lengths, num_tokens, num_seqs = LENGTHS[name]
    batch, num_pages = make_batch(lengths, 16, num_seqs)
    # tokamax's own reference reads all entries of the table.
    batch = batch._replace(page_table=jnp.minimum(batch.page_table, num_pages - 1))
    q, k, v, cache = make_inputs(num_tokens, (4, 2, 64), num_pages, 16, "bfloat16")
    expected, expected_cache = reference.paged_attention(q, k, v, cache, batch, **options)
    for run in runs():
        found, pages = tpu_tokamax.paged_attention(
            q, k, v, as_tokamax(cache), batch, **options, run=run
        )
        num_new = sum(q_len for q_len, _ in lengths)
        np.testing.assert_allclose(
            as_f32(found[:num_new]), as_f32(expected[:num_new]), rtol=0, atol=2e-2
        )
        assert not as_f32(found)[num_new:].any()
        np.testing.assert_array_equal(as_f32(pages), as_f32(as_tokamax(expected_cache)))


def test_its_pages() -> None:
    sizes = (7, 16, 3, 64, jnp.dtype("bfloat16"))
    pages = jax.eval_shape(lambda: empty_cache(*sizes, backend=Backend.TPU_TOKAMAX))
    assert pages.shape == (7, 16, 6, 128)
    message = (
        "heads of 64, 128, 256 numbers in bfloat16, not for 80 in bfloat16: use flaxen's own "
        "kernel: pip uninstall tokamax, or backend='tpu' in Python"
    )
    with pytest.raises(ValueError, match=message):
        tpu_tokamax.empty_pages(7, 16, 3, 80, jnp.dtype("bfloat16"))
    assert not tpu_tokamax.has_heads(64, jnp.dtype("float32"))


def test_it_has_no_sinks() -> None:
    batch, num_pages = make_batch([(1, 1)], 16, 1)
    q, k, v, cache = make_inputs(1, (4, 2, 64), num_pages, 16, "bfloat16")
    with pytest.raises(ValueError, match="no attention sinks: use flaxen's own kernel: pip"):
        tpu_tokamax.paged_attention(q, k, v, as_tokamax(cache), batch, sinks=jnp.zeros(4))
