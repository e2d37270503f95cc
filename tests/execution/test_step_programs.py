"""What the device runs before all programs are compiled: nothing waits, and no bit changes."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import pytest

from flaxen.engine.core import Engine
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.models.model import Model
from flaxen.protocol import Request
from tests.engine.fakes import spelled
from tests.engine.lora import LORA, adapted, make_adapter
from tests.engine.tiny import (
    EOS_ID,
    MODEL,
    ONE_SHAPE,
    PARAMS,
    make_engine,
    make_executor,
    pack_params,
    prompts,
    run,
    trace,
)

SHAPES = replace(ONE_SHAPE, compile_sizes=(1, 16, 64))
CONFIG = replace(SHAPES, lora=LORA, enable_prefix_caching=False)
LOGGER = "flaxen.engine"


def cpu_executor(counts: list[tuple[int, int]], model: Model = MODEL, **more: Any) -> JaxExecutor:
    return JaxExecutor(
        model.on(Backend.CPU),
        pack_params(PARAMS),
        CONFIG,
        eos_ids=(EOS_ID,),
        cache_dtype=jnp.dtype("float32"),
        bad_word_ids=spelled,
        on_compiled=lambda *each: counts.append(each),
        **more,
    )


def cpu_engine(counts: list[tuple[int, int]]) -> Engine:
    executor = cpu_executor(counts)
    engine = make_engine(CONFIG, executor=executor)
    engine.adapters.load("a", make_adapter(1))
    return engine


def burst(name: str) -> list[Request]:
    """Requests with and without an adapter, of which one is alone at the end."""
    longer = {1: 14}
    return [
        adapted(f"{name}{i}", prompt, "a" if i % 2 else None, max_tokens=longer.get(i, 6))
        for i, prompt in enumerate(prompts([3, 20, 5, 30]))
    ]


@pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")
def test_a_model_that_generates_nothing_has_no_programs_of_grammars() -> None:
    counts: list[tuple[int, int]] = []
    cpu_executor(counts, replace(MODEL, generates=False), compiles_beside=True)
    assert counts == [(1, 6), (2, 6)]


@pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")
def test_the_first_burst_waits_for_nothing_and_gets_the_same_bits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    counts: list[tuple[int, int]] = []
    engine = cpu_engine(counts)
    assert counts == [(1, 6), (2, 6)], "two programs are compiled at the start"
    with caplog.at_level(logging.INFO, LOGGER):
        first = [trace(output) for output in run(engine, burst("first"))]
    assert not caplog.records
    while engine.warm_up():
        pass
    assert counts[-1] == (6, 6)
    assert first == [trace(output) for output in run(engine, burst("again"))]


def test_a_wait_for_a_program_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    engine = make_engine(SHAPES)
    with caplog.at_level(logging.INFO, LOGGER):
        run(engine, [adapted(f"r{i}", prompt, None) for i, prompt in enumerate(prompts([4, 5]))])
        run(engine, [adapted("s", prompts([4])[0], None)])
    (record,) = caplog.records
    assert "compiled the step of 16 tokens and 16 sequences in " in record.getMessage()
    assert "while 2 request(s) waited for it" in record.getMessage()


def test_programs_are_compiled_while_the_arrays_are_replaced() -> None:
    """After a step that failed, the engine's thread makes new arrays beside the compiling one."""
    executor = make_executor(SHAPES)
    is_over = threading.Event()

    def reset() -> None:
        while not is_over.is_set():
            executor.reset()

    resets = threading.Thread(target=reset)
    resets.start()
    try:
        while executor.warm_up():
            pass
    finally:
        is_over.set()
        resets.join()
