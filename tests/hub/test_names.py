"""The names of models on the hub."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flaxen.hub.names import NAMED, HubModel, nearest, parse_hub_name


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("Qwen/Qwen3-0.6B", HubModel("Qwen/Qwen3-0.6B")),
        ("gpt2", HubModel("gpt2")),
        ("org/name-GGUF:Q4_K_M", HubModel("org/name-GGUF", "Q4_K_M")),
        ("org/name-GGUF:a/file.gguf", HubModel("org/name-GGUF", "a/file.gguf")),
        ("hf.co/org/name:Q8_0", HubModel("org/name", "Q8_0")),
        ("https://huggingface.co/org/name", HubModel("org/name")),
        ("hf://org/name@v1.0:Q8_0", HubModel("org/name", "Q8_0", "v1.0")),
        ("org/name@refs/pr/3", HubModel("org/name", None, "refs/pr/3")),
        ("qwen3-0.6b", HubModel("Qwen/Qwen3-0.6B")),
        ("qwen3-0.6b@v1", HubModel("Qwen/Qwen3-0.6B", None, "v1")),
        ("smollm2-135m", None),  # it is no repository
        ("org/name/more", None),
        ("/org/name", None),
        ("../name", None),
        ("org/name:", None),
        ("org/name@../x", None),
        ("a b", None),
        ("", None),
    ],
)
def test_names(name: str, model: HubModel | None) -> None:
    assert parse_hub_name(name) == model


def test_a_model_is_written_as_it_is_read() -> None:
    for name in ("org/name", "org/name:Q8_0", "org/name@v1:m.gguf"):
        assert str(parse_hub_name(name)) == name


def test_short_names_are_lower_case_and_lead_to_what_can_be_read() -> None:
    for name, model in NAMED.items():
        assert name == name.lower()
        if isinstance(model, HubModel):
            assert parse_hub_name(model.repo) == model


def test_a_misspelt_short_name_has_a_nearest_one() -> None:
    assert nearest("qwen3-06b") == "qwen3-0.6b"
    assert nearest("SmolLM2-135M") == "smollm2-135m"
    assert nearest("gpt2") is None


def test_the_page_has_the_table_of_short_names() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/get-models.md").read_text()
    rows = dict(re.findall(r"^\| `(.+?)` \| (\S+)", page, re.MULTILINE))
    hub = {name: model.repo for name, model in NAMED.items() if isinstance(model, HubModel)}
    assert rows == {"smollm2-135m": "none:", "minilm": "none:"} | hub
