"""A draft model changes no bit, and is right where the models agree, at any temperature."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

import jax
import pytest

from flaxen.engine.speculative.draft_model import DraftModel
from flaxen.engine.speculative.drafter import Drafter
from flaxen.engine.speculative.ngram import Ngrams
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.memory.cache_plan import CachePlan, PoolReason
from flaxen.memory.draft_cache import divide_cache
from flaxen.outputs import RequestOutput
from flaxen.protocol import EngineStats, Request
from tests.engine.drafters import Always
from tests.engine.fakes import FaultyExecutor
from tests.engine.lora import LORA, make_adapter
from tests.engine.tiny import (
    ONE_SHAPE,
    make_engine,
    make_executor,
    make_params,
    pools,
    prompts,
    request,
    run,
)

CONFIG = replace(ONE_SHAPE, num_spec_tokens=3, lora=LORA)
SAMPLING = (
    {"temperature": 0.0},
    {"temperature": 1.0, "seed": 5, "top_p": 0.9},
    {"temperature": 0.7, "seed": 6, "frequency_penalty": 0.5, "logprobs": 2, "n": 2},
    {"temperature": 1.0, "seed": 7, "ignore_eos": False, "stop_token_ids": (9, 11)},
)


def requests() -> list[Request]:
    """Prompts of which some take several chunks."""
    return [
        request(f"r{i}", prompt, **{"max_tokens": 14, **SAMPLING[i % len(SAMPLING)]})
        for i, prompt in enumerate(prompts([1, 5, 16, 70, 31, 40, 64, 3]))
    ]


@pytest.fixture(scope="module")
def target() -> JaxExecutor:
    return make_executor(CONFIG)


@pytest.fixture(scope="module")
def plain(target: JaxExecutor) -> list[RequestOutput]:
    return run(make_engine(CONFIG, executor=target), requests())


def traces(outputs: list[RequestOutput]) -> list[Any]:
    return [(each.token_ids, each.logprobs) for output in outputs for each in output.outputs]


def drafted(
    target: JaxExecutor, draft: JaxExecutor, num_pages: int = 256
) -> tuple[list[RequestOutput], EngineStats]:
    config = replace(ONE_SHAPE, groups=pools(num_pages))
    draft.reset()
    engine = make_engine(
        CONFIG, executor=target, drafter=DraftModel(config, draft), payoff=Always()
    )
    return run(engine, requests()), engine.stats()


@pytest.fixture(scope="module")
def same() -> JaxExecutor:
    return make_executor(ONE_SHAPE)


def test_the_same_model_is_always_right(
    target: JaxExecutor, same: JaxExecutor, plain: list[RequestOutput]
) -> None:
    got, stats = drafted(target, same)
    assert traces(got) == traces(plain)
    # But not about the token that comes after a stop, which nobody asks for.
    assert stats.num_draft_tokens > 50
    assert stats.num_accepted_tokens >= stats.num_draft_tokens - 6


def test_another_model_is_wrong_and_changes_nothing(
    target: JaxExecutor, plain: list[RequestOutput]
) -> None:
    got, stats = drafted(target, make_executor(ONE_SHAPE, params=make_params(1)))
    assert traces(got) == traces(plain)
    assert stats.num_accepted_tokens < stats.num_draft_tokens / 2


def test_twins_that_are_preempted_change_nothing(
    target: JaxExecutor, same: JaxExecutor, plain: list[RequestOutput]
) -> None:
    got, stats = drafted(target, same, num_pages=16)
    assert traces(got) == traces(plain)
    assert stats.num_accepted_tokens > 0


def test_adapters_and_the_base_in_one_batch_speak_with_drafts_as_without(
    target: JaxExecutor, same: JaxExecutor
) -> None:
    few: dict[str, Any] = {"max_tokens": 30, "allowed_token_ids": (9, 20, 30)}  # they repeat soon
    adapters = {name: make_adapter(seed) for seed, name in enumerate("ab")}

    def said(drafter: Drafter | None) -> tuple[list[Any], int]:
        engine = make_engine(CONFIG, executor=target, drafter=drafter, payoff=Always())
        for name, adapter in adapters.items():
            engine.adapters.load(name, adapter)
        names = (None, "a", "b")
        asked = [
            replace(request(f"r{i}", prompt, **SAMPLING[i % 4], **few), adapter=names[i % 3])
            for i, prompt in enumerate(prompts([1, 5, 16, 70, 31, 40]))
        ]
        found = traces(run(engine, asked))
        return found, engine.stats().num_accepted_tokens

    expected, _ = said(None)
    same.reset()
    for drafter in (Ngrams(1, 3), DraftModel(ONE_SHAPE, same)):
        found, num_accepted = said(drafter)
        assert found == expected
        assert num_accepted > 0


def test_a_draft_model_that_fails_leaves_no_memory_behind(
    target: JaxExecutor, plain: list[RequestOutput]
) -> None:
    params = make_params(1)
    freed = weakref.ref(jax.tree.leaves(params)[0])
    draft = make_executor(ONE_SHAPE, params=params)
    del params
    broken = FaultyExecutor(draft, lambda name, count: (name, count) == ("fetch", 3))
    drafter = DraftModel(ONE_SHAPE, broken)
    engine = make_engine(CONFIG, executor=target, drafter=drafter, payoff=Always())
    assert traces(run(engine, requests())) == traces(plain)
    gc.collect()
    assert freed() is None
    engine.sleep(keeps_weights=True)
    engine.wake_weights()
    engine.wake_cache()
    assert traces(run(engine, requests())) == traces(plain)


def plan(num_bytes: int, reason: PoolReason, token_bytes: int) -> CachePlan:
    return CachePlan(
        groups=(), num_bytes=num_bytes, pool_reason=reason, max_model_len=100, model_len=100,
        asked_len=None, whole_bytes=100 * token_bytes, num_whole=1.0,
    )  # fmt: skip


def test_both_caches_hold_as_many_tokens() -> None:
    small = plan(500, PoolReason.FREE_MEMORY, 10)
    assert divide_cache(plan(4000, PoolReason.ASKED, 30), small, 1000) == (3000, 1000)
    assert divide_cache(plan(5000, PoolReason.DEVICE_MEMORY, 30), small, 1000) == (3000, 1000)
    assert divide_cache(plan(3000, PoolReason.ALL_SEQUENCES, 30), small, 1000) == (3000, 1000)
    with pytest.raises(ValueError, match="take all that the KV cache would have"):
        divide_cache(plan(900, PoolReason.FREE_MEMORY, 30), small, 1000)
