"""Two backends in one process: engines step in turns, and a trainer runs beside an engine.

The C++ kernels and XLA round differently, so that their log-probabilities agree to rounding; each
alone is what it is beside the other, to the bit.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.engine.core import Engine
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.models.params import compute_params
from flaxen.outputs import RequestOutput
from flaxen.protocol import Request
from flaxen.training.full import full
from flaxen.training.loss import next_token
from flaxen.training.microbatches import split_batch
from flaxen.training.step import run_step, start
from tests.engine.tiny import (
    EOS_ID,
    MODEL,
    ONE_SHAPE,
    PARAMS,
    make_engine,
    prompts,
    request,
    run,
    trace,
)
from tests.training.tiny import copy, make, random_batch

pytestmark = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")

FLOAT32 = jnp.dtype("float32")
BOTH = (Backend.CPU, Backend.REFERENCE)


def engine_on(backend: Backend) -> Engine:
    model = MODEL.on(backend)
    params = compute_params(model.param_specs, PARAMS, dtype=FLOAT32, backend=backend)
    executor = JaxExecutor(
        model,
        params,
        ONE_SHAPE,
        eos_ids=(EOS_ID,),
        cache_dtype=FLOAT32,
        bad_word_ids=lambda words: (),
    )
    return make_engine(executor=executor)


def requests() -> list[Request]:
    return [
        request(f"r{i}", prompt, temperature=0.0)
        for i, prompt in enumerate(prompts([5, 17, 30, 64, 70]))
    ]


def in_turns(engines: list[Engine]) -> list[list[RequestOutput]]:
    """All requests by each engine, which make one step each, one after the other."""
    outputs = [{each.request_id: RequestOutput.of(each, None) for each in requests()}
               for _ in engines]  # fmt: skip
    for engine in engines:
        for each in requests():
            engine.add(engine.check(each))
    while any(engine.has_work for engine in engines):
        for engine, found in zip(engines, outputs, strict=True):
            for event in engine.step() if engine.has_work else ():
                found[event.request_id].add(event)
    return [list(found.values()) for found in outputs]


def test_engines_of_two_backends_step_in_turns() -> None:
    alone = [[trace(each) for each in run(engine_on(backend), requests())] for backend in BOTH]
    beside = [[trace(each) for each in found] for found in in_turns(list(map(engine_on, BOTH)))]
    assert beside == alone  # to the bit
    by_kernels, by_xla = beside
    for one, other in zip(by_kernels, by_xla, strict=True):
        assert [token for token, *_ in one] == [token for token, *_ in other]  # greedy
        np.testing.assert_allclose(
            [logprob for _, logprob, *_ in one], [logprob for _, logprob, *_ in other], atol=1e-4
        )


def train_on(backend: Backend, between: Any) -> tuple[Any, list[float]]:
    """Three steps over the same batch. Returns the masters, and each step's loss."""
    model = MODEL.on(backend)
    step = make(full(model, dtype=FLOAT32), next_token(model))
    state = start(step, copy(PARAMS), seed=0)
    compute, losses = step.prepare(state.params), []
    for _ in range(3):
        state, compute, metrics = run_step(
            step, state, compute, None, split_batch(random_batch(0), 1)
        )
        losses.append(float(metrics.values["loss"][0]))
        between()
    return state.params, losses


@pytest.mark.parametrize(
    ("trains", "serves"), [BOTH, BOTH[::-1]], ids=["cpu trains", "reference trains"]
)
def test_a_trainer_and_an_engine_of_two_backends(trains: Backend, serves: Backend) -> None:
    served = [trace(each) for each in run(engine_on(serves), requests())]
    alone, losses = train_on(trains, lambda: None)
    engine, found = engine_on(serves), []

    def serve() -> None:
        found.append([trace(each) for each in run(engine, requests())])

    beside, losses_beside = train_on(trains, serve)
    assert losses_beside == losses
    assert losses[-1] < losses[0]
    jax.tree.map(np.testing.assert_array_equal, beside, alone)
    assert found == [served] * 3
