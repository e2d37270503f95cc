"""Served through the C++ kernels, a token's bits depend on its own sequence alone.

Also across compiled shapes and threads, where XLA's linear layers agree to rounding only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

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
SEVERAL: dict[str, Any] = {"compile_sizes": (1, 7, 40, 64)}
ALONE = replace(ONE_SHAPE, **SEVERAL, enable_prefix_caching=False)

# A new engine, which finds no cached prefix.
MakeEngine = Callable[[EngineConfig], Engine]


@pytest.fixture(params=cpu_library.supported_isas(), scope="module", autouse=True)
def isa(request: pytest.FixtureRequest) -> object:
    cpu_library.start(isa=request.param)
    yield request.param
    cpu_library.start(isa=cpu_library.supported_isas()[0])


@pytest.fixture(params=DTYPES, scope="module")
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def native_engine(isa: str, dtype: str) -> MakeEngine:
    """Engines of the same compiled shapes share what is compiled."""
    params = pack_params(PARAMS, dtype)

    @functools.cache
    def executor(sizes: tuple[int, ...], page_size: int) -> JaxExecutor:
        return JaxExecutor(
            MODEL.on(Backend.CPU),
            params,
            replace(
                ONE_SHAPE,
                max_num_batched_tokens=max(sizes),
                compile_sizes=sizes,
                page_size=page_size,
                groups=pools(4096 // page_size),
            ),
            eos_ids=(EOS_ID,),
            cache_dtype=jnp.dtype(dtype),
            bad_word_ids=lambda words: (),
        )

    def engine(config: EngineConfig) -> Engine:
        return make_engine(config, executor=executor(config.compile_sizes, config.page_size))

    return engine


@pytest.fixture(scope="module")
def alone(native_engine: MakeEngine) -> list[list[tuple[object, ...]]]:
    engine = native_engine(ALONE)
    return [trace(run(engine, [request("r", p)])[0]) for p in prompts(LENGTHS)]


@pytest.mark.parametrize(
    ("num_threads", "changes"),
    [
        (1, {"compile_sizes": (64,)}),  # all in one shape
        (2, {"compile_sizes": (64,)}),
        (3, {"compile_sizes": (64,)}),
        (2, SEVERAL),  # and in several others
        (3, {"max_num_batched_tokens": 16, **SEVERAL}),  # in chunks
        (1, {"page_size": 32, "groups": pools(128)}),
        (2, {"groups": pools(24), "enable_prefix_caching": False}),  # some are preempted
    ],
    ids=["1 thread", "2 threads", "3 threads", "shapes", "chunked", "pages", "preempted"],
)
def test_batched_is_alone(
    alone: list[list[tuple[object, ...]]],
    native_engine: MakeEngine,
    changes: dict[str, Any],
    num_threads: int,
) -> None:
    before = cpu_library.num_threads()
    cpu_library.start(num_threads=num_threads)
    engine = native_engine(replace(ONE_SHAPE, **changes))
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
