"""A vector of a prompt in place of output tokens: on a fake device and a real one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flaxen.engine.core import Engine
from flaxen.engine.pooling import Pooler
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.execution.model_inputs import check_inputs
from flaxen.protocol import FieldError, Pooling, Request, SamplingParams
from tests.engine.fakes import POISON, SMALL, fake_engine
from tests.engine.tiny import (
    MODEL,
    ONE_SHAPE,
    PARAMS,
    make_engine,
    make_executor,
    prompts,
    request,
    with_config,
)
from tests.models.golden import hidden_states


def pooled(name: str, prompt: list[int], pooling: Pooling) -> Request:
    return Request(request_id=name, prompt_token_ids=tuple(prompt), pooling=pooling)


def run(engine: Engine, *requests: Request) -> dict[str, tuple[float, ...]]:
    for each in requests:
        engine.add(engine.check(each))
    found = {}
    while engine.has_work:
        for event in engine.step():
            if event.finish is not None and event.finish.pooled is not None:
                assert (event.finish.reason, event.finish.num_output_tokens) == ("stop", 0)
                found[event.request_id] = event.finish.pooled
    assert engine.stats().num_used_pages == 0
    return found


def test_the_last_token_and_the_mean_of_all() -> None:
    engine = fake_engine()
    found = run(engine, pooled("l", [3, 4, 8], "last"), pooled("m", [3, 4, 8], "mean"))
    assert found == {"l": (8.0, 1.0), "m": (5.0, 1.0)}


def test_the_mean_of_each_span_in_any_chunks() -> None:
    hidden = np.arange(20, dtype=np.float32).reshape(10, 2)
    spans = ((0, 3), (2, 10), (9, 10))
    for chunks in ([10], [1, 2, 7], [5, 5]):
        pooler = Pooler("last", spans)
        for begin, num in zip(np.cumsum([0, *chunks]), chunks, strict=False):
            pooler.add(hidden[begin : begin + num])
        expected = [hidden[begin:end].mean(axis=0) for begin, end in spans]
        np.testing.assert_array_equal(pooler.spans(), expected)


def test_a_prompt_in_chunks_and_after_preemption() -> None:
    engine = fake_engine(replace(SMALL, max_num_batched_tokens=8))
    prompt = list(range(3, 43))
    others = [request(f"r{i}", prompt[:8], max_tokens=30, logprobs=None) for i in range(4)]
    found = run(engine, *others, pooled("m", prompt, "mean"), pooled("l", prompt, "last"))
    assert found == {"m": (22.5, 1.0), "l": (42.0, 1.0)}


def test_a_mean_takes_nothing_from_the_prefix_cache() -> None:
    engine = fake_engine()
    prompt = list(range(3, 15))
    for _ in range(2):
        assert run(engine, pooled("m", prompt, "mean")) == {"m": (8.5, 1.0)}
        assert run(engine, pooled("l", prompt, "last")) == {"l": (14.0, 1.0)}
    assert engine.stats().num_prefix_hits > 0  # the last token's


def test_sums_in_any_chunks_have_the_same_bits() -> None:
    hidden = np.random.default_rng(0).standard_normal((50, 7)).astype(np.float32)
    whole, chunked = Pooler("mean"), Pooler("mean")
    whole.add(hidden)
    for start in range(0, 50, 3):
        chunked.add(hidden[start : start + 3])
    np.testing.assert_array_equal(whole.vector(), chunked.vector())
    np.testing.assert_allclose(whole.vector(), hidden.mean(axis=0), rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def real() -> JaxExecutor:
    return make_executor()


def test_a_vector_is_the_models_hidden_states(real: JaxExecutor) -> None:
    engine = make_engine(executor=real)
    for prompt in prompts([1, 5, 40, 100]):
        found = run(engine, pooled("l", prompt, "last"), pooled("m", prompt, "mean"))
        hidden = hidden_states(MODEL, PARAMS, np.array(prompt))
        normed = np.asarray(MODEL.final_norm(PARAMS, hidden))
        np.testing.assert_allclose(found["l"], normed[-1], rtol=0, atol=1e-4)
        np.testing.assert_allclose(found["m"], normed.mean(axis=0), rtol=0, atol=1e-4)


def test_beside_others_is_alone_and_chunked_is_whole(real: JaxExecutor) -> None:
    asked = [
        pooled(f"{pooling}{i}", prompt, pooling)
        for i, prompt in enumerate(prompts([1, 5, 17, 60]))
        for pooling in ("last", "mean")
    ]
    others = [request(f"r{i}", p) for i, p in enumerate(prompts([9, 30], seed=4))]
    alone = {}
    for each in asked:
        alone.update(run(make_engine(executor=real), each))
    assert run(make_engine(executor=real), *others, *asked) == alone
    chunks = make_engine(with_config(max_num_batched_tokens=16), executor=real)
    assert run(chunks, *asked) == alone


def test_a_vector_that_is_not_finite_fails_alone(executor: JaxExecutor) -> None:
    engine = make_engine(ONE_SHAPE, executor=executor)
    found = run(engine, pooled("bad", [5, POISON], "last"), pooled("good", [5, 6], "last"))
    assert set(found) == {"good"}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"pooling": "max"}, "pooling must be one of last, mean, cls, got 'max'"),
        ({"sampling": SamplingParams(n=2)}, "samples no token: leave its sampling out"),
        ({"sampling": SamplingParams(logprobs=1)}, "samples no token: leave its sampling out"),
        ({"grammar": lambda: None}, "samples no token: leave grammar out"),
        ({"pooled_spans": ((0, 2),)}, "some of its 1 tokens, got 0 to 2"),
        ({"pooling": None, "pooled_spans": ((0, 1),)}, "some of its 0 tokens, got 0 to 1"),
    ],
)
def test_what_does_not_go_with_pooling_is_refused(changes: dict[str, object], match: str) -> None:
    with pytest.raises(FieldError, match=match):
        fake_engine().check(replace(pooled("r", [3], "last"), **changes))  # type: ignore[arg-type]


def test_a_model_that_can_not_pool_refuses() -> None:
    with pytest.raises(FieldError, match="pooling needs hidden states after the final norm"):
        check_inputs(replace(MODEL, final_norm_on=None), pooled("r", [3], "last"))
