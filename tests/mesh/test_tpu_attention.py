"""The TPU's attention, interpreted, on each device's own heads: equal to one device's."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.attention_kernels.paged_attention import reference, tpu
from flaxen.models.sharded_attention import num_page_heads, over_pages
from tests.attention_kernels.paged_batches import make_batch, make_inputs
from tests.mesh.meshes import placement

LENGTHS = [(5, 5), (1, 40), (17, 60)]


@pytest.mark.parametrize("num_kv_heads", [2, 1])
def test_each_device_computes_its_heads(num_kv_heads: int) -> None:
    mesh = placement("tensor=2")
    batch, num_pages = make_batch(LENGTHS, 16, 4)
    q, k, v, cache = make_inputs(24, (4, num_kv_heads, 64), num_pages, 16, "float32")
    # Where there are fewer KV heads than devices, each device has a copy of the one that it needs.
    copies = num_page_heads(num_kv_heads, mesh) // num_kv_heads
    pages = tpu.from_reference(cache).repeat(copies, axis=1)
    place = mesh.sharding(tpu.PAGE_AXES, pages.shape)
    sinks = jnp.asarray([0.5, -1, 3, 0])

    def attend(q: Any, k: Any, v: Any, sinks: Any, pages: Any, batch: Any) -> Any:
        return tpu.paged_attention(q, k, v, pages, batch, sinks=sinks)

    run = jax.jit(over_pages(attend, mesh, tpu.PAGE_AXES))
    found, written = run(q, k, v, sinks, jax.device_put(pages, place), batch)
    assert written.sharding.is_equivalent_to(place, written.ndim)
    assert written.addressable_shards[0].data.shape[1] == 1
    expected, expected_cache = reference.paged_attention(q, k, v, cache, batch, sinks=sinks)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    found_cache = tpu.to_reference(written, 64)
    assert expected_cache.values is not None
    np.testing.assert_array_equal(found_cache.keys, expected_cache.keys.repeat(copies, axis=2))
    np.testing.assert_array_equal(found_cache.values, expected_cache.values.repeat(copies, axis=2))
