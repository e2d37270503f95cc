"""The config.json of a repository, without its weights, from a stand-in of the hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flaxen.hub.client import HubError
from flaxen.hub.config_file import find_config
from flaxen.hub.places import Places
from flaxen.hub.resolve import resolve
from tests.hub_server import Hub, run_hub

FILES = {"config.json": b'{"a": 1}', "tokenizer.json": b"{ }", "model.safetensors": bytes(5000)}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with run_hub() as hub:
        hub.add("org/model", FILES)
        hub.add("Qwen/Qwen3-0.6B", FILES)
        hub.add("org/m-GGUF", {"m-Q8_0.gguf": b"GGUF 8" * 1000})
        yield hub


@pytest.fixture
def places(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.chdir(tmp_path)
    return Places(cache_dir=tmp_path / "cache", endpoint=hub.endpoint)


@pytest.mark.parametrize("name", ["org/model", "org/model@main", "qwen3-0.6b"])
def test_a_repository_gives_its_config_alone(places: Places, hub: Hub, name: str) -> None:
    found = find_config(name, places)
    assert found is not None
    assert found.read_bytes() == FILES["config.json"]
    assert not list((places.cache).rglob("*.safetensors"))


def test_the_model_can_be_downloaded_after_it(places: Places) -> None:
    find_config("org/model", places)
    assert (resolve("org/model", places) / "model.safetensors").is_file()
    assert find_config("org/model", places) is None


@pytest.mark.parametrize(
    "name", ["smollm2-135m", "org/m-GGUF:Q8_0", "here/model", "./x.gguf", "model", "a.py:f"]
)
def test_other_names_are_left_to_others(
    places: Places, hub: Hub, tmp_path: Path, name: str
) -> None:
    (tmp_path / "here/model").mkdir(parents=True)
    assert find_config(name, places) is None
    assert hub.asked == []


def test_offline_nothing_is_asked(places: Places, hub: Hub) -> None:
    assert find_config("org/model", replace(places, offline=True)) is None
    assert hub.asked == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("org/m-GGUF", "org/m-GGUF has no config.json, .* `flaxen pull org/m-GGUF`"),
        ("org/none", "org/none is not on this machine, and the hub has no model org/none"),
    ],
)
def test_what_the_hub_has_not_is_said(places: Places, name: str, said: str) -> None:
    with pytest.raises(HubError, match=said):
        find_config(name, places)
