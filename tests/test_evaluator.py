"""`flaxen.evaluate` gives what `flaxen eval` prints, to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import flaxen
from flaxen.cli.main import main
from tests.cli.train import tiny_training
from tests.compile_cache import shared_directory

OPTIONS: dict[str, Any] = {"sequence_length": 32, "dtype": "float32"}


def test_it_is_what_the_command_prints_with_an_adapter_and_without(
    tmp_path: Path, capsys: Any
) -> None:
    model = tiny_training.write_model(tmp_path / "llama")
    texts = tiny_training.write_texts(tmp_path / "texts.jsonl")
    arguments = ["eval", model, "--data", texts, "--json", "--compile-cache", shared_directory()]
    more = ["--sequence-length", 32, "--dtype", "float32"]
    assert main(list(map(str, [*arguments, *more]))) == 0
    printed = json.loads(capsys.readouterr().out)
    records = [json.loads(line) for line in texts.read_text().splitlines()]
    for data in (texts, records):
        found = flaxen.evaluate(model, data=data, **OPTIONS)
        assert (found.loss, found.num_tokens) == (printed["loss"], printed["num_tokens"])
        assert found.perplexity == printed["perplexity"]

    result = flaxen.train(model, data=texts, rank=2, learning_rate=0.01, epochs=4)
    result.save(tmp_path / "adapter")
    adapted = [
        flaxen.evaluate(model, data=texts, adapter=adapter, **OPTIONS)
        for adapter in (result.adapter, tmp_path / "adapter")
    ]
    assert adapted[0] == adapted[1]
    assert adapted[0].loss < found.loss


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    model = tiny_training.write_model(tmp_path / "llama")
    with pytest.raises(ValueError, match="data is missing: give data="):
        flaxen.evaluate(model)
    with pytest.raises(ValueError, match="sequence_length is 4096, and the model was made for"):
        flaxen.evaluate(model, data=[{"text": "a b"}], sequence_length=4096)
    own = flaxen.Definition(model=model, params={}, tokenizer="")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="definition names the code of a directory, and the model"):
        flaxen.evaluate(own, data=[{"text": "a b"}], definition="a.py:b")
    with pytest.raises(ValueError, match=r"adapter_config\.json"):
        flaxen.evaluate(model, data=[{"text": "a b"}], adapter=tmp_path)
