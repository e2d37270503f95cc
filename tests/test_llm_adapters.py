"""LLM and AsyncLLM with adapters, over a tiny model on disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from flaxen import LLM, AsyncLLM, SamplingParams
from flaxen.models.adapters import LoraConfig, adapter_shapes
from flaxen.scheduling.config import LoraLimits
from flaxen.weights.adapters.adapter import Adapter
from flaxen.weights.adapters.peft_writer import save_adapter
from tests.test_llm import GREEDY, SIZES, model

__all__ = ["model"]  # the fixture

LIMITS = LoraLimits(max_loras=2, max_lora_rank=4)


def random_adapter(llm: LLM, seed: int) -> Adapter:
    config = LoraConfig(rank=4)
    rng = np.random.default_rng(seed)
    layers = tuple(
        {
            name: {
                part: rng.standard_normal(shape).astype(np.float32) / 2
                for part, shape in parts.items()
            }
            for name, parts in layer.items()
        }
        for layer in adapter_shapes(llm.model, config)["layers"]
    )
    return Adapter(config=config, layers=layers)


def test_adapters_from_python(model: str, tmp_path: Path) -> None:
    llm = LLM(model, lora=LIMITS, **SIZES)
    adapters = {name: random_adapter(llm, seed) for seed, name in enumerate("abc")}
    for name, adapter in adapters.items():
        save_adapter(tmp_path / name, adapter)
    llm.load_adapter("a", adapters["a"])
    llm.load_adapter("b", tmp_path / "b")
    llm.load_adapter("c", str(tmp_path / "c"))
    alone = {
        name: llm.generate("one", GREEDY, adapter=name)[0].outputs[0].token_ids
        for name in (None, *"abc")
    }
    assert len({tuple(tokens) for tokens in alone.values()}) == 4
    names = ["c", None, "b", "a", None, "c"]
    mixed = llm.generate(["one"] * 6, GREEDY, adapter=names)
    assert [output.outputs[0].token_ids for output in mixed] == [alone[name] for name in names]
    (answer,) = llm.chat([{"role": "user", "content": "hi"}], GREEDY, adapter="a")
    assert answer.outputs[0].token_ids

    with pytest.raises(ValueError, match="2 prompts came with 1 adapters: give one for all"):
        llm.generate(["one", "two"], GREEDY, adapter=["a"])
    with pytest.raises(ValueError, match="'a' has already been loaded"):
        llm.load_adapter("a", adapters["b"])
    llm.load_adapter("a", adapters["b"], load_inplace=True)
    assert llm.generate("one", GREEDY, adapter="a")[0].outputs[0].token_ids == alone["b"]
    llm.unload_adapter("a")
    with pytest.raises(ValueError, match="there is no adapter 'a': loaded are 'b', 'c'"):
        llm.generate(["one", "two"], GREEDY, adapter=["b", "a"])
    assert not llm.engine.has_work
    with pytest.raises(ValueError, match=r"adapter_config\.json"):
        llm.load_adapter("d", tmp_path)


def test_an_adapter_is_given_for_all_prompts(model: str, tmp_path: Path) -> None:
    base = LLM(model, **SIZES).generate("one", GREEDY)[0].outputs[0].token_ids
    beside = LLM(model, lora=LIMITS, **SIZES)
    adapter = random_adapter(beside, 0)
    beside.load_adapter("a", adapter)
    expected = beside.generate("one", GREEDY, adapter="a")[0].outputs[0].token_ids
    assert expected != base
    save_adapter(tmp_path / "adapter", adapter)
    for given in (adapter, tmp_path / "adapter"):
        llm = LLM(model, adapter=given, **SIZES)
        assert llm.generate("one", GREEDY)[0].outputs[0].token_ids == expected
        outputs = llm.generate(["one", "one"], GREEDY, adapter=[None, "adapter"])
        assert [each.outputs[0].token_ids for each in outputs] == [base, expected]
    with pytest.raises(ValueError, match=r"adapter_config\.json"):
        LLM(model, adapter=tmp_path, **SIZES)


def test_what_does_not_fit_is_refused(model: str) -> None:
    llm = LLM(model, lora=LoraLimits(max_loras=1, max_lora_rank=2), **SIZES)
    adapter = random_adapter(llm, 0)
    with pytest.raises(ValueError, match="rank is 4, and max_lora_rank is 2: raise it"):
        llm.load_adapter("a", adapter)
    other = Adapter(config=LoraConfig(rank=2), layers=adapter.layers[:0])
    with pytest.raises(ValueError, match="made for another model"):
        llm.load_adapter("a", other)
    with pytest.raises(
        ValueError, match=r"must be a flaxen\.weights\.adapters\.adapter\.Adapter, got a dict"
    ):
        llm.engine.adapters.load("a", {"layers": ()})  # type: ignore[arg-type]
    without = LLM(model, **SIZES)
    with pytest.raises(ValueError, match="serves no adapters: start it with --enable-lora"):
        without.load_adapter("a", adapter)
    with pytest.raises(ValueError, match="there is no adapter 'a': loaded are none"):
        without.generate("one", SamplingParams(), adapter="a")


def test_adapters_from_asyncio(model: str) -> None:
    llm = LLM(model, lora=LIMITS, **SIZES)
    adapter = random_adapter(llm, 0)
    llm.load_adapter("a", adapter)
    expected = llm.generate("one", GREEDY, adapter="a")[0].outputs[0].token_ids

    async def ask() -> None:
        served = AsyncLLM(model, lora=LIMITS, **SIZES)
        served.load_adapter("a", adapter)
        async for output in served.generate("one", GREEDY, "r", adapter="a"):
            last = output
        assert last.outputs[0].token_ids == expected
        served.unload_adapter("a")
        with pytest.raises(ValueError, match="there is no adapter 'a'"):
            async for _ in served.generate("one", GREEDY, "r", adapter="a"):
                pass
        await served.shutdown()

    asyncio.run(asyncio.wait_for(ask(), 120))
