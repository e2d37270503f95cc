"""Models that take turns in one server, with a store each: who comes back finds its own pages."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flaxen.engine_args import EngineArgs
from flaxen.responses_routes.responses import Responses
from flaxen.server.config import ServerConfig
from flaxen.serving.planned_models import Wanted, plan_models
from flaxen.serving.several import pool_models
from tests.e2e.tiny_model import write_tiny_model
from tests.server.clients import http_client, run

COMPILING_S = 300  # loads compile, which takes long on a slow machine
STORED = 2**18  # bytes in memory
PROMPT = "What this prompt begins with is on disk when its model comes back, and not before."


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.unfreeze()  # what a load has frozen is this process's again


def test_a_model_that_comes_back_finds_what_it_stored(tmp_path: Path) -> None:
    models = [write_tiny_model(tmp_path / name, seed) for seed, name in enumerate(("one", "two"))]
    sizes: dict[str, Any] = {
        "max_num_seqs": 2, "max_num_batched_tokens": 32, "max_model_len": 128, "dtype": "float32",
        "kv_offload_dir": tmp_path / "pages", "kv_offload_bytes": STORED,
    }  # fmt: skip
    wanted = [Wanted(args=EngineArgs(model=str(each), **sizes)) for each in models]
    options: Any = {"stays": False, "report": lambda *_: None}
    roomy = plan_models(wanted, budget_bytes=2**30, **options)
    budget = int(1.9 * (roomy.models[0].weight_bytes + STORED))
    plan = plan_models(wanted, budget_bytes=budget, **options)
    assert not plan.fits_at_once
    pooled = pool_models(plan, ServerConfig(), Responses(), stays=False)

    async def work() -> list[tuple[list[int], int]]:
        found = []
        async with http_client(pooled.app) as client:
            for name in ("one", "two", "one", "two"):
                body = {"model": name, "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
                answer = await client.post(
                    "/v1/completions", json=body | {"return_token_ids": True}
                )
                assert answer.status_code == 200, answer.text
                (slot,) = [each for each in pooled.pool.slots if name in each.model.names]
                loaded: Any = slot.loaded
                stats = loaded.engine.stats()
                found.append((answer.json()["choices"][0]["token_ids"], stats.num_stored_hits))
                assert pooled.pool.used_bytes <= budget
                del loaded, slot
        await pooled.pool.close()
        return found

    first, other, again, other_again = run(work(), seconds=COMPILING_S)
    num_full = (len(PROMPT) - 1) // 16 * 16
    assert first[0] != other[0]
    assert (first[1], other[1]) == (0, 0)
    assert again == (first[0], num_full)
    assert other_again == (other[0], num_full)
    assert [slot.num_loads for slot in pooled.pool.slots] == [2, 2]
