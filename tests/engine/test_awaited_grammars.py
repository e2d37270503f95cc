"""With the C++ kernels a step with grammars is one function, which waits for their masks."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

import jax.numpy as jnp
import pytest

from flaxen.engine.core import Engine
from flaxen.execution import device_state
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.protocol import Request
from tests.engine.fakes import add, run_out, spelled
from tests.engine.grammars import Rule
from tests.engine.tiny import (
    EOS_ID,
    MODEL,
    ONE_SHAPE,
    PARAMS,
    make_engine,
    pack_params,
    prompts,
    request,
    run,
    trace,
)

pytestmark = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")

CONFIG = replace(ONE_SHAPE, compile_sizes=(16,), max_num_batched_tokens=16, max_num_seqs=8)
PARAMETERS = pack_params(PARAMS)
FIRST, SECOND, THIRD = prompts([5, 20, 9])
PLAIN = request("plain", SECOND, temperature=0.9, seed=2)


def make(whole: bool = True) -> JaxExecutor:
    with pytest.MonkeyPatch.context() as patch:
        if not whole:
            patch.setattr(device_state, "can_await", lambda backend: False)
        return JaxExecutor(
            MODEL.on(Backend.CPU),
            PARAMETERS,
            CONFIG,
            eos_ids=(EOS_ID,),
            cache_dtype=jnp.dtype("float32"),
            bad_word_ids=spelled,
        )


@pytest.fixture(scope="module")
def executor() -> JaxExecutor:
    return make()


@pytest.fixture(scope="module")
def in_parts() -> JaxExecutor:
    return make(whole=False)


def engine_on(executor: JaxExecutor) -> Engine:
    executor.reset()
    return make_engine(CONFIG, executor=executor)


def alternating(tokens: list[int]) -> Iterable[int]:
    return range(100, 110) if len(tokens) % 2 else range(200, 210)


def ruled(asked: Request) -> Request:
    return replace(asked, grammar=lambda: Rule(alternating))


def test_it_samples_what_two_functions_do(executor: JaxExecutor, in_parts: JaxExecutor) -> None:
    batch = [
        ruled(request("greedy", FIRST)),
        PLAIN,
        ruled(request("adjusted", THIRD, temperature=1.0, seed=3, frequency_penalty=0.5)),
    ]
    whole, parts, without = (
        [trace(output) for output in run(engine_on(each), asked)]
        for each, asked in ((executor, batch), (in_parts, batch), (executor, [PLAIN]))
    )
    assert whole == parts
    assert whole[1] == without[0]
    assert [token_id // 100 for token_id, *_ in whole[2]] == [2, 1] * 6


def test_a_step_is_held_back_while_the_last_one_is_read_again(executor: JaxExecutor) -> None:
    """What reads it is computed after all that this thread has asked for: it would not end."""
    engine = engine_on(executor)
    scored = request("scored", SECOND, prompt_logprobs=2, max_tokens=1)
    outputs = run(engine, [ruled(request("ruled", FIRST)), scored])
    assert len(outputs[0].outputs[0].token_ids) == 12
    assert outputs[1].prompt_logprobs is not None
    assert len(outputs[1].prompt_logprobs) == len(SECOND)
    add(engine, ruled(request("ruled", FIRST)))
    add(engine, Request(request_id="vector", prompt_token_ids=tuple(SECOND), pooling="mean"))
    assert run_out(engine).reasons == {("ruled", 0): "length", ("vector", 0): "stop"}


def test_a_grammar_that_fails_ends_its_sequence_alone(executor: JaxExecutor) -> None:
    class Stuck(Rule):
        def fill_bitmask(self, bitmask: memoryview) -> None:
            raise RuntimeError("too ambiguous")

    engine = engine_on(executor)
    add(engine, replace(request("stuck", FIRST), grammar=lambda: Stuck(alternating)))
    add(engine, PLAIN)
    assert run_out(engine).reasons == {("stuck", 0): "impossible", ("plain", 0): "length"}


def test_an_interrupted_step_is_let_go(executor: JaxExecutor) -> None:
    def interrupts(tokens: list[int]) -> Iterable[int]:
        raise KeyboardInterrupt

    engine = engine_on(executor)
    add(engine, replace(request("r", FIRST), grammar=lambda: Rule(interrupts)))
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    assert run_out(engine).reasons == {("r", 0): "error"}
    add(engine, ruled(request("next", FIRST)))
    assert run_out(engine).reasons == {("next", 0): "length"}


def test_an_executor_ends_while_a_step_waits(executor: JaxExecutor) -> None:
    seconds = []

    def ends(tokens: list[int]) -> Iterable[int]:
        began_s = time.monotonic()
        executor._device.finish()  # type: ignore[union-attr]
        seconds.append(time.monotonic() - began_s)
        return range(10)

    engine = engine_on(executor)
    add(engine, replace(request("r", FIRST), grammar=lambda: Rule(ends)))
    engine.step()
    assert seconds[0] < 1
