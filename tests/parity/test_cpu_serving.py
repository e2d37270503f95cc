"""Served through the C++ kernels, a token's bits depend on its own sequence alone.

Also across compiled shapes and threads, where XLA's linear layers agree to rounding only.
"""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.engine.core import Engine
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.scheduling.config import EngineConfig
from tests.engine.tiny import (
    EOS_ID,
    MODEL,
    ONE_SHAPE,
    PARAMS,
    dense_logprobs,
    make_engine,
    pack_params,
    pools,
    prompts,
    request,
    run,
    trace,
)

pytestmark = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")

LENGTHS = [1, 2, 5, 16, 17, 31, 40, 64, 70, 3, 8, 33, 90]
DTYPES = ["float32", "bfloat16"]
ALONE = replace(ONE_SHAPE, compile_sizes=(1, 16, 64), enable_prefix_caching=False)


def native_engine(dtype: str, config: EngineConfig) -> Engine:
    executor = JaxExecutor(
        MODEL.on(Backend.CPU),
        pack_params(PARAMS, dtype),
        config,
        eos_ids=(EOS_ID,),
        cache_dtype=jnp.dtype(dtype),
        bad_word_ids=lambda words: (),
    )
    return make_engine(config, executor=executor)


@pytest.fixture(params=cpu_library.supported_isas(), scope="module", autouse=True)
def isa(request: pytest.FixtureRequest) -> object:
    cpu_library.start(isa=request.param)
    yield request.param
    cpu_library.start(isa=cpu_library.supported_isas()[0])


@pytest.fixture(params=DTYPES, scope="module")
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def alone(isa: str, dtype: str) -> list[list[tuple[object, ...]]]:
    engine = native_engine(dtype, ALONE)
    return [trace(run(engine, [request("r", p)])[0]) for p in prompts(LENGTHS)]


@pytest.mark.parametrize(
    ("num_threads", "changes"),
    [
        (1, {"compile_sizes": (64,)}),  # all in one shape
        (2, {"compile_sizes": (64,)}),
        (3, {"compile_sizes": (64,)}),
        (2, {"compile_sizes": (1, 7, 40, 64)}),  # and in several others
        (3, {"max_num_batched_tokens": 16, "compile_sizes": (16,)}),  # in chunks
        (1, {"page_size": 32, "groups": pools(128)}),
        (2, {"groups": pools(24), "enable_prefix_caching": False}),  # some are preempted
    ],
    ids=["1 thread", "2 threads", "3 threads", "shapes", "chunked", "pages", "preempted"],
)
def test_batched_is_alone(
    alone: list[list[tuple[object, ...]]], dtype: str, changes: dict[str, object], num_threads: int
) -> None:
    before = cpu_library.num_threads()
    cpu_library.start(num_threads=num_threads)
    engine = native_engine(dtype, replace(ONE_SHAPE, **changes))
    batch = [request(f"r{i}", p) for i, p in enumerate(prompts(LENGTHS))]
    first, again = run(engine, batch), run(engine, batch)  # the second finds cached prefixes
    cpu_library.start(num_threads=before)
    assert [trace(output) for output in first] == alone
    assert [trace(output) for output in again] == alone


def test_served_is_the_dense_forward_of_xla(
    alone: list[list[tuple[object, ...]]], dtype: str
) -> None:
    if dtype == "bfloat16":
        pytest.skip("XLA rounds to bfloat16 elsewhere; float32 shows that the model is the same")
    for prompt, traced in zip(prompts(LENGTHS), alone, strict=True):
        tokens = [*prompt, *(entry[0] for entry in traced)]
        dense = dense_logprobs(tokens)[len(prompt) - 1 : -1]  # type: ignore[arg-type]
        found = np.array([entry[1] for entry in traced])
        expected = np.array([line[entry[0]] for line, entry in zip(dense, traced, strict=True)])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
