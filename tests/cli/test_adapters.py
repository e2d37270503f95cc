"""The adapter of a command: by --adapter, or as MODEL."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flaxen import LLM, SamplingParams
from flaxen.cli.adapters import AdapterOptions, limits_for
from flaxen.cli.main import main
from flaxen.hub.places import Places
from flaxen.scheduling.config import LoraLimits
from flaxen.weights.adapters.base import base_reference
from flaxen.weights.adapters.peft_writer import save_adapter
from flaxen.weights.checkpoint import open_checkpoint
from tests.test_llm import SIZES, model
from tests.weights.adapters.made import random_adapter

__all__ = ["model"]  # the fixture

QUICK = [
    "--max-model-len", "64", "--max-num-seqs", "4", "--max-num-batched-tokens", "16",
    "--compile-size", "16", "--json", "--max-tokens", "9",
]  # fmt: skip


@pytest.fixture(scope="module")
def adapter(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("adapters") / "mine"
    made = random_adapter(open_checkpoint(Path(model)).model)
    save_adapter(directory, made, base_reference(model))
    return directory


def test_an_adapter_answers_as_in_the_server_to_the_bit(model: str, adapter: Path) -> None:
    """The server's slots have room for rank 16 and eight adapters, ours for this one."""
    greedy = SamplingParams(temperature=0, max_tokens=9, ignore_eos=True, logprobs=0)
    found = []
    for limits in (LoraLimits(), limits_for(adapter)):
        llm = LLM(model, lora=limits, **SIZES)
        llm.load_adapter("a", adapter)
        (output,) = llm.generate("one", greedy, adapter="a")
        found.append((output.outputs[0].token_ids, output.outputs[0].cumulative_logprob))
    assert limits_for(adapter) == LoraLimits(max_loras=1, max_lora_rank=3)
    assert found[0] == found[1]


def test_generate_with_an_adapter(
    model: str, adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str) -> str:
        assert main(["generate", *arguments, "-p", "one", *QUICK]) == 0
        text: str = json.loads(capsys.readouterr().out)["text"]
        return text

    beside = said(model, "--adapter", str(adapter))
    assert said(str(adapter)) == beside
    assert said(model) != beside


def test_which_model_and_which_adapter(model: str, adapter: Path, tmp_path: Path) -> None:
    none, given = AdapterOptions(), AdapterOptions(adapter=adapter)
    assert none.beside("smollm2-135m", Places(offline=True)) == ("smollm2-135m", None)
    assert none.beside(str(adapter), Places(offline=True)) == (model, adapter)
    assert given.beside(model, Places(offline=True)) == (model, adapter)
    assert limits_for(None) is None
    with pytest.raises(ValueError, match="is an adapter itself, and --adapter names another"):
        given.beside(str(adapter), Places(offline=True))
    run = adapter.parent
    with pytest.raises(ValueError, match=rf"--adapter {run}: .*\. Did you mean {adapter}\?$"):
        AdapterOptions(adapter=run).beside(model, Places(offline=True))
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    shutil.copytree(adapter, tmp_path / "run" / "adapter")
    of_run = AdapterOptions(adapter=tmp_path / "run").beside(model, Places(offline=True))
    assert of_run == (model, tmp_path / "run" / "adapter")
    for wrong, message in ((tmp_path / "x", "no directory"), (tmp_path, "has no adapter_config")):
        with pytest.raises(ValueError, match=f"--adapter {wrong}: .*{message}.*Name the directory"):
            AdapterOptions(adapter=wrong).beside(model, Places(offline=True))
