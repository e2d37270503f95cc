"""LLM with each method of speculation, over a tiny model on disk: the same answers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from flaxen import LLM, SamplingParams, StructuredOutputs
from flaxen.cli.serve.speculation_options import SpeculationOptions
from flaxen.engine import core
from tests.engine.drafters import Always
from tests.test_llm import SIZES, TEXTS, ids_of, model

__all__ = ["model"]  # the fixture
SETTINGS = [
    SamplingParams(temperature=0, max_tokens=30, ignore_eos=True),
    SamplingParams(temperature=0.9, seed=3, n=2, max_tokens=30, stop=["q"]),
    SamplingParams(
        temperature=0.9,
        seed=4,
        max_tokens=40,
        structured_outputs=StructuredOutputs(
            json={
                "type": "object",
                "properties": {"name": {"enum": ["lion", "lioness"]}, "age": {"type": "integer"}},
                "required": ["name", "age"],
                "additionalProperties": False,
            }
        ),
    ),
]


@pytest.fixture(scope="module")
def plain(model: str) -> list[Any]:
    llm = LLM(model, **SIZES)
    return [ids_of(llm.generate(TEXTS, each)) for each in SETTINGS]


@pytest.mark.parametrize("method", ["ngram", "suffix", "draft_model"])
def test_each_method_gives_the_plain_answers(
    model: str, plain: list[Any], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "Payoff", Always)
    config = {"method": method, "num_speculative_tokens": 3}
    if method == "draft_model":
        config |= {"model": model, "quantization": "int8"}
    llm = LLM(model, speculative_config=config, **SIZES)
    assert [ids_of(llm.generate(TEXTS, each)) for each in SETTINGS] == plain
    assert llm.engine.config.num_spec_tokens == 3
    assert llm.engine.stats().num_accepted_tokens > 0


def test_a_draft_model_of_another_tokenizer_is_refused(model: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    tokenizer = other / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"A":', '"\u0100":'))
    with pytest.raises(ValueError, match=r"where the model has b'A' .*: take a draft model of"):
        LLM(model, speculative_config={"model": str(other)}, **SIZES)


def test_a_draft_model_computes_on_one_device(model: str) -> None:
    config = {"model": model}
    with pytest.raises(ValueError, match="computes on one device, and this engine has 2: take"):
        LLM(model, speculative_config=config, mesh="data=2", backend="reference", **SIZES)


def test_a_model_that_gives_vectors_has_no_drafts(model: str) -> None:
    with pytest.raises(ValueError, match=r"drafts tokens, and .* gives vectors: leave it out"):
        LLM(model, speculative_config={"method": "ngram"}, runner="pooling", **SIZES)


def test_short_options_are_keys_of_the_configuration() -> None:
    options = SpeculationOptions(
        speculative_config={"prompt-lookup-max": 4}, spec_method="ngram", spec_tokens=2
    )
    expected = {"prompt_lookup_max": 4, "method": "ngram", "num_speculative_tokens": 2}
    assert options.joined().speculative_config == expected
    assert SpeculationOptions(speculative_config={}).joined().speculative_config == {}  # refused
    twice = SpeculationOptions(speculative_config={"method": "suffix"}, spec_method="ngram")
    with pytest.raises(ValueError, match="--spec-method says what --speculative-config says"):
        twice.joined()
