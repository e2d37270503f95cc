"""Pages leave the KV pool and come back to the bit, whatever their layout."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.execution.compiled_step import jit_empty_state
from flaxen.execution.page_copies import PageCopies, joined
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.models.model import Model
from flaxen.scheduling.config import EngineConfig
from tests.engine import test_latent, tiny
from tests.scheduling.groups import groups

PAGES = np.array([3, 60, 7, 11, 1], np.int32)


def config(model: Model) -> EngineConfig:
    return EngineConfig(max_model_len=64, groups=groups(model.cache_specs, 64), max_num_seqs=2)


def check(model: Model, dtype: str) -> None:
    """Random numbers that are written are read, from the same pages and after a copy to others."""
    sizes = config(model)
    copies = PageCopies(model, sizes)
    cache, _ = jit_empty_state(model, sizes, jnp.dtype(dtype))()
    rng = np.random.default_rng(0)
    for g in range(len(sizes.groups)):
        num_bytes = joined(copies.read(cache, g, PAGES), len(PAGES)).shape[1]
        # Numbers that are no NaN, in any format: XLA may change the bits of a NaN that it copies.
        contents = rng.integers(0, 256, (40, num_bytes), np.uint8) & 0xBF
        cache = copies.write(cache, g, np.arange(20, 60, dtype=np.int32), contents)
        cache = copies.write(cache, g, PAGES, contents[:5])
        found = joined(copies.read(cache, g, PAGES), len(PAGES))
        np.testing.assert_array_equal(found, contents[:5])
        many = joined(copies.read(cache, g, np.arange(20, 60, dtype=np.int32)), 40)
        np.testing.assert_array_equal(many, contents)
        arrays = [each for layer in cache if layer.group == g for each in jax.tree.leaves(layer)]
        axis = int(model.num_stages > 1)
        assert num_bytes == sum(each.nbytes // each.shape[axis] for each in arrays)
    assert joined(copies.read(cache, 0, PAGES[:0]), 0).shape == (0, 0)


@pytest.mark.parametrize("backend", [Backend.REFERENCE, Backend.CPU])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "float8_e4m3fn"])
def test_pages_come_back_to_the_bit(backend: Backend, dtype: str) -> None:
    if backend is Backend.CPU and not cpu_library.is_built():
        pytest.skip("the library was not built")
    check(tiny.MODEL.on(backend), dtype)


def test_latents_windows_and_chunks_come_back_to_the_bit() -> None:
    check(test_latent.MODEL.on(Backend.REFERENCE), "float32")


def test_pages_are_read_as_they_are_after_the_steps_before() -> None:
    executor = tiny.make_executor()
    engine = tiny.make_engine(executor=executor)
    prompt = tiny.prompts([64])[0]
    tiny.run(engine, [tiny.request("first", prompt)])
    read = executor.read_pages([[0, 1, 2, 3], [3]])
    before = [each.copy() for each in read()]
    assert [len(each) for each in before] == [4, 1]
    executor.write_pages([[9, 8, 7, 6], []], [before[0], before[1][:0]])
    again = executor.read_pages([[9, 8, 7, 6, 0], []])()
    np.testing.assert_array_equal(again[0][:4], before[0])
    np.testing.assert_array_equal(again[0][4], before[0][0])
    assert before[0].any()
