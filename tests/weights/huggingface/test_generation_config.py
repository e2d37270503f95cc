"""The sampling that a model's files recommend: which fields, from where, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flaxen.weights.huggingface.generation_config import sampling_defaults

# Qwen2.5's, as published, with fields that say nothing of sampling.
QWEN = {
    "bos_token_id": 151643, "pad_token_id": 151643, "do_sample": True,
    "eos_token_id": [151645, 151643], "repetition_penalty": 1.05, "temperature": 0.7,
    "top_p": 0.8, "top_k": 20, "transformers_version": "4.37.0",
}  # fmt: skip


def write(directory: Path, fields: Any) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "generation_config.json").write_text(json.dumps(fields))
    return directory


def test_the_fields_that_vllm_takes(tmp_path: Path) -> None:
    model = write(tmp_path, {**QWEN, "max_new_tokens": 2048, "min_p": None, "num_beams": 1})
    assert sampling_defaults("auto", model) == {
        "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05,
        "max_tokens": 2048,
    }  # fmt: skip


def test_do_sample_does_not_decide(tmp_path: Path) -> None:
    """vLLM does not look at it: without a temperature a request samples at 1."""
    assert sampling_defaults("auto", write(tmp_path, {"do_sample": False})) == {}
    fields = {"do_sample": False, "temperature": 0.6}
    assert sampling_defaults("auto", write(tmp_path, fields)) == {"temperature": 0.6}


def test_where_the_file_is(tmp_path: Path) -> None:
    model = write(tmp_path / "model", {"top_k": 1})
    other = write(tmp_path / "other", {"top_k": 2})
    assert sampling_defaults("auto", model) == {"top_k": 1}
    assert sampling_defaults("vllm", model) == {}
    assert sampling_defaults(str(other), model) == {"top_k": 2}
    assert sampling_defaults(str(other / "generation_config.json"), None) == {"top_k": 2}
    assert sampling_defaults("auto", None) == {}
    assert sampling_defaults("auto", tmp_path) == {}
    assert sampling_defaults("auto", tmp_path / "m.gguf") == {}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": -1}, r"defaults that can't be used: temperature must be .* got -1\. Corr"),
        ({"top_p": 1.5}, r"generation_config\.json has sampling defaults .*: top_p must be"),
        ({"top_k": "many"}, r"top_k must be .* leave it out with generation_config vllm"),
        ({"max_new_tokens": 0}, "max_tokens must be"),
        ([], r"generation_config\.json must hold a JSON object, got list"),
    ],
)
def test_values_that_can_not_be_used(tmp_path: Path, fields: Any, message: str) -> None:
    model = write(tmp_path, fields)
    with pytest.raises(ValueError, match=message):
        sampling_defaults("auto", model)
    assert sampling_defaults("vllm", model) == {}


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    message = r"generation_config is '.*nowhere', and .*nowhere does not exist: give a directory"
    with pytest.raises(ValueError, match=message):
        sampling_defaults(str(tmp_path / "nowhere"), None)
    message = r"generation_config\.json does not exist: give a directory with generation_config"
    with pytest.raises(ValueError, match=message):
        sampling_defaults(str(tmp_path), None)


def test_the_home_of_nobody_does_not_exist() -> None:
    with pytest.raises(ValueError, match="~nobody-here does not exist: give a directory with"):
        sampling_defaults("~nobody-here", None)
