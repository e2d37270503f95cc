"""Real engines in one pool: each answers as alone, and an unloaded one leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from flaxen.engine_args import EngineArgs
from flaxen.responses_routes.responses import Responses
from flaxen.server.config import ServerConfig
from flaxen.serving.announcement.models import about_models
from flaxen.serving.load_at_start import LoadAtStart, load_at_start
from flaxen.serving.planned_models import Wanted, plan_models
from flaxen.serving.several import Pooled, check_distinct, pool_models
from tests.e2e.tiny_model import write_tiny_model
from tests.server.clients import http_client, run

# Loads compile, which takes long on a slow machine with an empty compile cache.
COMPILING_S = 300


@pytest.fixture(scope="module")
def directories(tmp_path_factory: Any) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    for name in ("one", "other"):
        (root / name).mkdir()
    return [write_tiny_model(root / name, seed) for seed, name in enumerate(("one", "other"))]


def pooled(directories: list[Path], *, takes_turns: bool) -> Pooled:
    """Two models, in memory for one or for both."""
    wanted = [
        Wanted(args=EngineArgs(model=str(each), max_num_seqs=2, max_num_batched_tokens=32))
        for each in directories
    ]
    options: Any = {"stays": False, "report": lambda *_: None}
    plan = plan_models(wanted, budget_bytes=2**30, **options)
    if takes_turns:
        budget = int(1.9 * plan.models[0].weight_bytes)
        plan = plan_models(wanted, budget_bytes=budget, **options)
    return pool_models(plan, ServerConfig(), Responses(), stays=False)


async def ask(client: Any, model: str) -> list[int]:
    body = {"model": model, "prompt": "Hello", "max_tokens": 8, "temperature": 0}
    answer = await client.post("/v1/completions", json=body | {"return_token_ids": True})
    assert answer.status_code == 200, answer.text
    found: list[int] = answer.json()["choices"][0]["token_ids"]
    return found


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.unfreeze()  # what a load has frozen is this process's again


def test_models_that_take_turns_answer_as_they_do_together(directories: list[Path]) -> None:
    async def work(pool: Pooled, *names: str) -> list[list[int]]:
        async with http_client(pool.app) as client:
            found = [await ask(client, name) for name in names]
        assert sum(slot.num_loads for slot in pool.pool.slots) == len(names)
        await pool.pool.close()
        return found

    together = work(pooled(directories, takes_turns=False), "one", "other")
    one, other = run(together, seconds=COMPILING_S)
    assert one != other
    in_turns = work(pooled(directories, takes_turns=True), "one", "other", "one")
    turns = run(in_turns, seconds=COMPILING_S)
    assert turns == [one, other, one]


def test_an_unloaded_model_leaves_no_array_and_no_thread(directories: list[Path]) -> None:
    async def work() -> None:
        gc.collect()
        before = {id(each) for each in jax.live_arrays()}
        several = pooled(directories, takes_turns=True)
        one, other = several.pool.slots
        async with http_client(several.app) as client:
            await ask(client, "one")
            loaded: Any = one.loaded
            gone = [weakref.ref(each) for each in (loaded.engine, loaded.app)]
            thread = loaded.engine._thread
            held = {id(each) for each in jax.live_arrays()} - before
            assert held, "its weights and pages are arrays"
            del loaded
            await ask(client, "other")
            assert one.loaded is None
            assert [each() for each in gone] == [None, None]
            assert not thread.is_alive()
        await several.pool._unload(other)
        left = [each for each in jax.live_arrays() if id(each) not in before]
        assert not left, f"{len(left)} arrays of {sum(each.nbytes for each in left)} bytes stay"

    run(work(), seconds=COMPILING_S)


def test_the_start_loads_what_was_asked_for(directories: list[Path]) -> None:
    several = pooled(directories, takes_turns=True)
    load_at_start(several.pool, LoadAtStart.NONE)
    assert [slot.loaded for slot in several.pool.slots] == [None, None]
    load_at_start(several.pool, LoadAtStart.FIRST)
    first, second, shared = (fact.text for fact in about_models(several.pool, several.plan))
    assert first.startswith("one, ")
    assert first.endswith("; loaded")
    assert second.endswith("; loaded when a request names it")
    assert "so the least recently used is unloaded" in shared
    text = r"--load-at-start all needs .* MiB, and the memory for models is"
    with pytest.raises(ValueError, match=text):
        load_at_start(several.pool, LoadAtStart.ALL)
    asyncio.run(several.pool.close())


def test_names_are_distinct() -> None:
    check_distinct(["a", "b"])
    with pytest.raises(ValueError, match="two models or adapters would be called 'a': name one"):
        check_distinct(["a", "b", "a"])
