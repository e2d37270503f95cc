"""Beyond a window, freed pages change no bit: the same model whose pages are all kept says so."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import pytest

from flaxen.engine.core import Engine
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.models.cache import Full
from flaxen.scheduling.cache.groups import CacheGroup
from flaxen.scheduling.config import EngineConfig
from tests.engine.tiny import (
    EOS_ID,
    MODEL,
    ONE_SHAPE,
    PARAMS,
    make_engine,
    pack_params,
    pools,
    prompts,
    request,
    run,
    trace,
)

# The model's layers have the windows (None, 24).
KEPT = (CacheGroup(spec=Full(num_kv_heads=2, head_dim=16), layers=(0, 1), num_pages=60),)
CHUNKED = replace(ONE_SHAPE, max_num_batched_tokens=16, compile_sizes=(16,))


def engine(backend: Backend, config: EngineConfig) -> Engine:
    is_packed = backend is Backend.CPU
    executor = JaxExecutor(
        MODEL.on(backend),
        pack_params(PARAMS) if is_packed else PARAMS,
        config,
        eos_ids=(EOS_ID,),
        cache_dtype=jnp.dtype("float32"),
        bad_word_ids=lambda words: (),
    )
    return make_engine(config, executor=executor)


@pytest.mark.parametrize("backend", [Backend.REFERENCE, Backend.CPU])
def test_freed_pages_change_no_bit(backend: Backend) -> None:
    if backend is Backend.CPU and not cpu_library.is_built():
        pytest.skip("the library was not built")
    texts = enumerate(prompts([100, 70, 30, 5]))
    requests = [request(f"r{i}", prompt, max_tokens=20) for i, prompt in texts]
    kept = engine(backend, replace(CHUNKED, groups=KEPT, enable_prefix_caching=False))
    expected = [trace(output) for output in run(kept, requests)]
    # So few pages behind the window that each is used again and again.
    full, sliding = pools(60)
    few = (full, replace(sliding, num_pages=20))
    freeing = engine(backend, replace(CHUNKED, groups=few))
    assert [trace(output) for output in run(freeing, requests)] == expected
    again = [trace(output) for output in run(freeing, requests)]  # on cached prefixes
    assert again == expected
    assert freeing.stats().num_prefix_hits > 0
