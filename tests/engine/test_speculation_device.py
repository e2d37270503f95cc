"""Speculative decoding gives the bits of plain decoding, log-probabilities too: on real steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.execution.jax_executor import JaxExecutor
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.outputs import RequestOutput
from flaxen.protocol import Request
from flaxen.scheduling.config import EngineConfig
from tests.engine.drafters import Always, Constant, Knowing
from tests.engine.fakes import chi_square
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

CONFIG = replace(ONE_SHAPE, num_spec_tokens=3)
LENGTHS = [1, 2, 5, 16, 17, 31, 40, 64, 70, 3]
# Each in one request or more: whatever changes what is sampled.
SAMPLING: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0, "seed": 5, "top_p": 0.9, "top_k": 50},
    {"temperature": 0.7, "seed": 6, "min_p": 0.01},
    {"presence_penalty": 1.0, "frequency_penalty": 0.5, "repetition_penalty": 1.3},
    {"temperature": 1.0, "seed": 7, "min_tokens": 4, "ignore_eos": False},
    {"logit_bias": {9: 5.0, 11: 4.0}, "bad_words": ("\t",)},
    {"prompt_logprobs": 1},
]


def requests(seed: int = 1) -> list[Request]:
    return [
        request(f"r{i}", prompt, **{"max_tokens": 14, **SAMPLING[i % len(SAMPLING)]})
        for i, prompt in enumerate(prompts(LENGTHS, seed))
    ]


CPU = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")


def executor_on(backend: Backend, config: EngineConfig) -> JaxExecutor:
    return JaxExecutor(
        MODEL.on(backend),
        pack_params(PARAMS) if backend.packs_weights else PARAMS,
        config,
        eos_ids=(EOS_ID,),
        cache_dtype=jnp.dtype("float32"),
        bad_word_ids=lambda words: tuple(tuple(map(ord, word)) for word in words),
    )


@pytest.fixture(
    scope="module", params=[Backend.REFERENCE, pytest.param(Backend.CPU, marks=CPU)], ids=str
)
def executor(request: pytest.FixtureRequest) -> JaxExecutor:
    return executor_on(request.param, CONFIG)


@pytest.fixture(scope="module")
def plain(executor: JaxExecutor) -> list[RequestOutput]:
    return run(make_engine(CONFIG, executor=executor), requests())


def knowing(plain: list[RequestOutput], wrong: float) -> Knowing:
    futures = {tuple(output.prompt_token_ids): output.outputs[0].token_ids for output in plain}
    return Knowing(futures, MODEL.vocab_size, wrong)


@pytest.mark.parametrize("wrong", [0.0, 0.3, 1.0])
def test_speculative_is_plain(
    executor: JaxExecutor, plain: list[RequestOutput], wrong: float
) -> None:
    drafter = knowing(plain, wrong)
    engine = make_engine(CONFIG, executor=executor, drafter=drafter, payoff=Always())
    for _ in range(2):  # the second finds cached prefixes
        got = run(engine, requests())
        assert [trace(output) for output in got] == [trace(output) for output in plain]
    assert drafter.num_asked > 0
    stats = engine.stats()
    assert stats.num_accepted_tokens <= stats.num_draft_tokens
    assert (stats.num_accepted_tokens == stats.num_draft_tokens) == (wrong == 0)


def test_speculative_is_plain_when_it_is_preempted(executor: JaxExecutor) -> None:
    crowd = [request(f"r{i}", p, max_tokens=50) for i, p in enumerate(prompts([20] * 8))]
    plain = run(make_engine(CONFIG, executor=executor), crowd)
    small = replace(CONFIG, groups=pools(16), enable_prefix_caching=False)
    engine = make_engine(small, executor=executor, drafter=knowing(plain, 0.3), payoff=Always())
    got = run(engine, crowd)
    assert engine.stats().num_preemptions > 0
    assert [trace(output) for output in got] == [trace(output) for output in plain]


@CPU
def test_a_step_that_can_verify_drafts_has_the_bits_of_one_that_cannot() -> None:
    """Through the C++ kernels a row's bits are its own, in any compiled shape."""
    traces = [
        [trace(output) for output in run(make_engine(config, executor=executor), requests())]
        for config in (CONFIG, ONE_SHAPE)
        for executor in [executor_on(Backend.CPU, config)]
    ]
    assert traces[0] == traces[1]


def test_sampled_tokens_have_the_models_distribution(executor: JaxExecutor) -> None:
    """Four tokens out of three: 81 cells; 99.9% of chi-square are below 125."""
    allowed, prompt, num = (10, 11, 12), prompts([4])[0], 3200
    sampling = {"temperature": 1.0, "max_tokens": 4, "allowed_token_ids": allowed, "logprobs": None}
    engine = make_engine(CONFIG, executor=executor, drafter=Constant(11, 12), payoff=Always())
    asked = [request(str(seed), prompt, seed=seed, **sampling) for seed in range(num)]
    counts = np.zeros((3, 3, 3, 3))
    for i in range(0, num, 16):
        for output in run(engine, asked[i : i + 16]):
            counts[tuple(allowed.index(each) for each in output.outputs[0].token_ids)] += 1
    expected = np.ones((3, 3, 3, 3))
    for place in np.ndindex(expected.shape):
        tokens = [*prompt, *(allowed[i] for i in place)]
        for end in range(len(prompt), len(tokens)):
            chances = np.exp(dense_logprobs(tokens)[end - 1][list(allowed)])
            expected[place] *= (chances / chances.sum())[place[end - len(prompt)]]
    assert chi_square(counts.ravel(), expected.ravel()) < 125
    assert 0 < engine.stats().num_accepted_tokens < engine.stats().num_draft_tokens
