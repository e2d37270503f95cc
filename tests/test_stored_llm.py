"""Stored pages where several engines, or several readers at once, use them."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from flaxen import LLM, AsyncLLM, SamplingParams
from tests.e2e.tiny_model import write_tiny_model
from tests.engine.tiny import request, run

SIZES: dict[str, Any] = {
    "max_model_len": 128, "max_num_seqs": 2, "max_num_batched_tokens": 64, "compile_sizes": (64,),
    "dtype": "float32",
}  # fmt: skip
GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
# Each fills six pages of its own, of a pool that holds little more than one.
PROMPTS = [f"{number} is what this prompt begins with. " * 3 for number in range(10, 16)]
NUM_STORED = sum((len(each) - 1) // 16 * 16 for each in PROMPTS)  # tokens
POOL = {"kv_cache_bytes": 80 * 2**10}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()  # the end of an engine closes its store


def replicas_of(llm: LLM) -> Any:
    engine: Any = llm.engine
    return engine._replicas


def num_found(engine: Any) -> int:
    """Tokens of prompts that were found, in its own pool or in the store."""
    stats = engine.stats()
    found: int = stats.num_stored_hits + stats.num_prefix_hits
    return found


def tokens(llm: LLM) -> list[list[int]]:
    return [list(each.outputs[0].token_ids) for each in llm.generate(PROMPTS, GREEDY)]


def test_data_replicas_share_a_store(model: str, tmp_path: Path) -> None:
    plain = LLM(model, backend="reference", **SIZES)
    expected = tokens(plain)
    ids = [each.prompt_token_ids for each in plain.generate(PROMPTS, GREEDY)]
    llm = LLM(model, mesh="data=2", kv_offload_dir=tmp_path, **POOL, **SIZES)
    replicas = replicas_of(llm)
    store = replicas[0]._stored.store
    assert store is replicas[1]._stored.store
    assert tokens(llm) == expected
    store.flush()
    # Each finds what either computed: little of it is in its own pool.
    for index, replica in enumerate(replicas):
        before = num_found(replica)
        for number, prompt in enumerate(ids):
            asked = request(f"{index} {number}", [*prompt], max_tokens=8)
            (output,) = run(replica, [asked])
            assert list(output.outputs[0].token_ids) == expected[number]
        assert num_found(replica) - before == NUM_STORED
        assert replica.stats().num_stored_hits > NUM_STORED / 2
    del llm, replicas, replica, store
    gc.collect()
    llm = LLM(model, mesh="data=2", kv_offload_dir=tmp_path, **POOL, **SIZES)  # a restart
    assert tokens(llm) == expected
    found = [each.stats().num_stored_hits for each in replicas_of(llm)]
    assert sum(found) == NUM_STORED
    assert all(found)
    stored = llm.engine.stats().stored
    assert stored is not None
    assert (stored.num_dropped, stored.num_mismatches) == (0, 0)


def test_other_weights_of_replicas_find_none_of_the_old_pages(model: str, tmp_path: Path) -> None:
    llm = LLM(model, mesh="data=2", kv_offload_dir=tmp_path, **POOL, **SIZES)
    engine: Any = llm.engine
    expected = tokens(llm)
    params = [each._executor._device._params for each in replicas_of(llm)]
    engine.set_params([jax.tree.map(lambda leaf: leaf * 1.1, each) for each in params])
    before = engine.stats().num_stored_hits
    changed = tokens(llm)
    assert changed != expected
    assert engine.stats().num_stored_hits == before
    replicas_of(llm)[0]._stored.store.flush()
    assert tokens(llm) == changed
    assert engine.stats().num_stored_hits > before


@pytest.mark.parametrize("memory", [0, 2**20])
def test_many_at_once_find_what_was_stored(model: str, tmp_path: Path, memory: int) -> None:
    expected = tokens(LLM(model, **SIZES))

    async def ask(served: AsyncLLM) -> list[list[int]]:
        async def one(number: int, prompt: str) -> list[int]:
            async for output in served.generate(prompt, GREEDY, f"{number}"):
                last = output
            return list(last.outputs[0].token_ids)

        left: Any = served.generate(PROMPTS[0] + "x", GREEDY, "left")
        await anext(left)
        await left.aclose()  # its client leaves
        found = await asyncio.gather(*(one(*each) for each in enumerate(PROMPTS)))
        return list(found)

    for is_first in (True, False):
        served = AsyncLLM(model, kv_offload_dir=tmp_path, kv_offload_bytes=memory, **POOL, **SIZES)
        assert asyncio.run(ask(served)) == expected
        stats = served.engine.stats()
        if not is_first:
            assert stats.num_stored_hits + stats.num_prefix_hits >= NUM_STORED
            assert stats.num_stored_hits > 0
        assert stats.stored is not None
        assert (stats.stored.num_dropped, stats.stored.num_mismatches) == (0, 0)
        asyncio.run(served.shutdown())
        del served
        gc.collect()
