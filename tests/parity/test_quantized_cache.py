"""With a KV cache of eight bits a token's bits still depend on its own sequence alone."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.engine.core import Engine
from flaxen.execution.compiled_step import jit_empty_state
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.models.layout import page_specs
from flaxen.scheduling.cache.groups import page_bytes
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

LENGTHS = [1, 17, 64, 90]


def engine(backend: Backend, cache_dtype: str, config: EngineConfig = ONE_SHAPE) -> Engine:
    if backend is Backend.CPU and not cpu_library.is_built():
        pytest.skip("the library was not built")
    params = pack_params(PARAMS, "bfloat16") if backend is Backend.CPU else PARAMS
    executor = JaxExecutor(
        MODEL.on(backend),
        params,
        config,
        eos_ids=(EOS_ID,),
        cache_dtype=jnp.dtype(cache_dtype),
        bad_word_ids=lambda words: (),
    )
    return make_engine(config, executor=executor)


@pytest.mark.parametrize(
    ("backend", "cache_dtype"),
    [
        (Backend.CPU, "int8"),
        (Backend.CPU, "float8_e4m3fn"),
        (Backend.REFERENCE, "int8"),
    ],
)
def test_batched_is_alone_chunked_is_whole_and_cached_is_not(
    backend: Backend, cache_dtype: str
) -> None:
    """The model has a sliding layer beside a full one."""
    single = engine(backend, cache_dtype, replace(ONE_SHAPE, enable_prefix_caching=False))
    alone = [trace(run(single, [request("r", each)])[0]) for each in prompts(LENGTHS)]
    batch = [request(f"r{i}", each) for i, each in enumerate(prompts(LENGTHS))]
    preempting = replace(ONE_SHAPE, groups=pools(16), enable_prefix_caching=False)
    for config in (ONE_SHAPE, preempting):
        other = engine(backend, cache_dtype, config)
        assert [trace(output) for output in run(other, batch)] == alone
        # The second run finds cached prefixes.
        assert [trace(output) for output in run(other, batch)] == alone
    if backend is Backend.CPU:  # XLA's sums have another order in another compiled shape
        small = replace(ONE_SHAPE, max_num_batched_tokens=16, compile_sizes=(16,))
        chunked = run(engine(backend, cache_dtype, small), batch)
        assert [trace(output) for output in chunked] == alone


def test_its_logprobs_are_near_those_of_plain_pages() -> None:
    """And are not theirs: the pages are read, and they are rounded."""
    text = request("r", prompts([90])[0], max_tokens=1)
    plain, *others = (
        trace(run(engine(Backend.CPU, dtype), [text])[0])[0]
        for dtype in ("bfloat16", "int8", "float8_e4m3fn")
    )
    for other, most in zip(others, (0.2, 0.8), strict=True):
        assert 0 < abs(other[1] - plain[1]) < most  # of the likeliest token


@pytest.mark.parametrize("backend", [Backend.CPU, Backend.REFERENCE])
def test_the_pool_takes_half_of_bfloat16(backend: Backend) -> None:
    """Measured in the arrays of the pool; the heads of the tiny model are of 16 numbers."""

    def pool_bytes(dtype: str) -> int:
        cache, _ = jit_empty_state(MODEL.on(backend), ONE_SHAPE, jnp.dtype(dtype))()
        specs = page_specs(MODEL.on(backend), 16, jnp.dtype(dtype))
        counted = sum(
            group.num_pages * page_bytes(spec, 1, 16, jnp.dtype(dtype).itemsize)
            for group in ONE_SHAPE.groups
            for spec in (specs[layer] for layer in group.layers)
        )
        num_bytes: int = sum(each.nbytes for each in jax.tree.leaves(cache))
        assert num_bytes == counted  # what the plan of the cache counts
        return num_bytes

    assert np.isclose(pool_bytes("int8") / pool_bytes("bfloat16"), (16 + 2) / 32)
