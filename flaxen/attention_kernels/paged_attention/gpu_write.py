"""Writes new keys and values to their pages on a GPU, in place, by a Pallas kernel."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from flaxen.attention_kernels.paged_attention.gpu_schedule import next_power_of_two
from flaxen.attention_kernels.paged_attention.pages import KvPages
from flaxen.attention_kernels.paged_attention.write import stored
from flaxen.kernels.interpret import by_platform
from flaxen.kernels.paged_batch import PagedBatch

Ref = Any  # an array in the device's memory


def write_pages(k: jax.Array, v: jax.Array, cache: KvPages, batch: PagedBatch) -> KvPages:
    """Writes k and v [T, K, H] to their tokens' slots; padding tokens are dropped."""
    assert cache.values is not None, "values that are part of the keys have no kernel"
    T, page_size = k.shape[0], cache.keys.shape[1]
    sequences, positions = batch.token_sequences(T), batch.token_positions(T)
    pages = batch.page_table[sequences, jnp.maximum(positions, 0) // page_size]
    pages = jnp.where(positions >= 0, pages, -1)
    slots = jnp.maximum(positions, 0) % page_size

    def write(*operands: jax.Array, interpret: bool) -> tuple[jax.Array, jax.Array]:
        flat = [each.reshape(*each.shape[:-2], -1) for each in operands[2:]]
        written = pl.pallas_call(
            _write_token,
            out_shape=[jax.ShapeDtypeStruct(each.shape, each.dtype) for each in flat[2:]],
            grid=(T,),
            input_output_aliases={4: 0, 5: 1},
            compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=1),
            interpret=interpret,
            name="write_pages",
        )(*operands[:2], *flat)
        return written[0].reshape(operands[4].shape), written[1].reshape(operands[5].shape)

    new, places = stored(k, v, cache), (pages, slots)
    keys, values = by_platform(write, *places, *new[:2], *cache[:2])
    if cache.key_scales is None:
        return KvPages(keys, values)
    return KvPages(keys, values, *by_platform(write, *places, *new[2:], *cache[2:]))


def _write_token(pages: Ref, slots: Ref, k: Ref, v: Ref, *refs: Ref) -> None:
    """Writes one token's keys and values to its slot; a page that is out of range is dropped.

    Args:
      pages: [T] the page of each token.
      slots: [T] its slot there.
      k: [T, K * H] new keys, as the pages hold them; or their scales, [T, K].
      v: [T, K * H] new values.
      refs: the pages [pages, page size, K * H] of keys and values as inputs, then as outputs, which
          are the same memory.
    """
    token = pl.program_id(0)
    k_pages, v_pages = refs[2:]
    num_pages, _, width = k_pages.shape
    lanes = jnp.arange(next_power_of_two(width))
    page = pages[token]
    is_valid = (page >= 0) & (page < num_pages)
    at = (jnp.where(is_valid, page, 0), slots[token], lanes)
    for new, old in ((k, k_pages), (v, v_pages)):
        fits = lanes < width
        value = plgpu.load(new.at[token, lanes], mask=fits, other=0)
        plgpu.store(old.at[at], value, mask=fits & is_valid)
