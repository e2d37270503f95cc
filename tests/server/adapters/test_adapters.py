"""Adapters over HTTP: which names select them, and how clients load and unload them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest

from flaxen.models.adapters import LoraConfig
from flaxen.protocol import AdapterWeights
from flaxen.server.adapter_files import AdapterFiles
from flaxen.server.app import create_app
from flaxen.server.config import ServerConfig
from flaxen.weights.adapters.adapter import Adapter
from tests.server.clients import get, http_client, make_app, openai_client, post, run
from tests.server.fakes import FakeEngine, byte_tokenizer

TOKENIZER = byte_tokenizer()


def weights(rank: int = 4) -> Adapter:
    return Adapter(config=LoraConfig(rank=rank), layers=())


def read(path: Path) -> AdapterWeights:
    """An adapter's directory holds its rank."""
    if not (path / "rank").exists():
        raise ValueError(f"{path}/rank does not exist")
    return weights(int((path / "rank").read_text()))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Adapters below "allowed", and one that no client may load."""
    for name, rank in (("allowed/one", 4), ("allowed/sub/two", 8), ("allowed/big", 64),
                       ("outside", 4), ("allowed-too", 4)):  # fmt: skip
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "rank").write_text(str(rank))
    (tmp_path / "allowed" / "empty").mkdir()
    (tmp_path / "allowed" / "file").write_text("4")
    (tmp_path / "allowed" / "link").symlink_to(tmp_path / "outside")
    return tmp_path / "allowed"


def make(engine: FakeEngine, directory: Path, **config: Any) -> Any:
    files = AdapterFiles(directory=directory, read=read)
    return create_app(engine, TOKENIZER, ServerConfig(**config), adapter_files=files)


def load(app: Any, name: Any, path: Any, **more: Any) -> Any:
    return post(app, "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path, **more})


def unload(app: Any, name: Any) -> Any:
    return post(app, "/v1/unload_lora_adapter", {"lora_name": name})


def test_loaded_selected_listed_and_unloaded(directory: Path) -> None:
    engine = FakeEngine()
    app = make(engine, directory, served_model_names=("main", "alias"))
    answer = load(app, "mine", "one")
    assert answer.status_code == 200
    assert answer.text == "Success: LoRA adapter 'mine' added successfully."
    assert load(app, "ft:main:x:1", str(directory / "sub" / "two")).status_code == 200

    names = {None: None, "alias": None, "mine": "mine", "main:mine": "mine",
             "alias:mine": "mine", "ft:main:x:1": "ft:main:x:1",
             "main:ft:main:x:1": "ft:main:x:1"}  # fmt: skip
    for path, prompt in (
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
    ):
        for name, adapter in names.items():
            body = {"max_tokens": 2, **prompt} | ({} if name is None else {"model": name})
            answer = post(app, path, body)
            assert answer.status_code == 200
            assert answer.json()["model"] == (name or "main")
            assert engine.requests[-1].adapter == adapter

    listed = {model["id"]: model for model in get(app, "/v1/models").json()["data"]}
    assert list(listed) == ["main", "alias", "mine", "ft:main:x:1"]
    assert [model["parent"] for model in listed.values()] == [None, None, "main", "main"]
    assert listed["mine"]["root"] == "mine"
    assert listed["mine"]["created"] == 1_700_000_001
    assert get(app, "/v1/models/mine").json() == listed["mine"]
    assert get(app, "/v1/models/alias:mine").json() == listed["mine"] | {"id": "alias:mine"}
    assert post(app, "/tokenize", {"model": "mine", "prompt": "a"}).status_code == 200

    answer = unload(app, "mine")
    assert answer.status_code == 200
    assert answer.text == "Success: LoRA adapter 'mine' removed successfully."
    for name in ("mine", "main:mine", "other:ft:main:x:1"):
        answer = post(app, "/v1/completions", {"model": name, "prompt": "a"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_any_name_means_the_main_model_where_the_server_says_so() -> None:
    engine = FakeEngine()
    engine.load_adapter("x", weights())
    app = make_app(engine, any_model_name=True, served_model_names=("main", "other"))
    body = {"prompt": "a", "max_tokens": 1}
    for name, answered, adapter in (
        ("gpt-4.1", "main", None),
        ("main:gone", "main", None),
        ("other", "other", None),
        ("x", "x", "x"),
        ("main:x", "main:x", "x"),
    ):
        answer = post(app, "/v1/completions", body | {"model": name})
        assert (answer.status_code, answer.json().get("model")) == (200, answered), answer.text
        assert engine.requests[-1].adapter == adapter
    assert post(app, "/tokenize", {"prompt": "a", "model": "gpt-4.1"}).status_code == 200
    assert get(app, "/v1/models/gpt-4.1").json()["error"]["code"] == "model_not_found"


def test_the_official_client_selects_an_adapter() -> None:
    engine = FakeEngine()
    engine.load_adapter("mine", weights())

    async def ask() -> None:
        async with openai_client(make_app(engine)) as client:
            models = await client.models.list()
            assert [model.id for model in models.data] == ["fake/model", "mine"]
            stream = await client.chat.completions.create(
                model="fake/model:mine", messages=[{"role": "user", "content": "a"}],
                max_tokens=3, stream=True,
            )  # fmt: skip
            chunks = [chunk async for chunk in stream]
            assert {chunk.model for chunk in chunks} == {"fake/model:mine"}
            with pytest.raises(openai.NotFoundError, match="use fake/model or mine"):
                await client.completions.create(model="yours", prompt="a")

    run(ask())
    assert engine.requests[-1].adapter == "mine"


def test_a_name_can_be_loaded_again_in_place_only(directory: Path) -> None:
    engine = FakeEngine()
    app = make(engine, directory)
    assert load(app, "mine", "one").status_code == 200
    answer = load(app, "mine", "sub/two")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "lora_name")
    assert "has already been loaded" in answer.json()["error"]["message"]
    assert engine.known["mine"].config.rank == 4
    assert load(app, "mine", "sub/two", load_inplace=True).status_code == 200
    assert engine.known["mine"].config.rank == 8
    assert load(app, "mine", "big", load_inplace=True).status_code == 400
    assert engine.known["mine"].config.rank == 8


OUTSIDE = ["../outside", "..", ".", "", "/", "/etc", "link", "one/../../outside", "../allowed-too",
           "a\0b", "../missing"]  # fmt: skip


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_path_leads_out_of_the_directory(directory: Path, path: str) -> None:
    engine = FakeEngine()
    answer = load(make(engine, directory), "mine", path)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "lora_path"
    assert error["message"].startswith("lora_path must lead to a directory below")
    assert str(directory) not in error["message"]
    assert engine.known == {}


def test_absolute_paths_out_of_the_directory_are_refused(directory: Path) -> None:
    for path in (directory.parent / "outside", directory.parent / "allowed-too", directory):
        assert load(make(FakeEngine(), directory), "mine", str(path)).status_code == 400


@pytest.mark.parametrize(
    ("body", "status", "param", "message"),
    [
        ({"lora_path": "nothing"}, 404, "lora_path", "there is no adapter at 'nothing'"),
        ({"lora_path": "file"}, 404, "lora_path", "there is no adapter at 'file'"),
        ({"lora_path": "a" * 5000}, 404, "lora_path", "there is no adapter at 'aaa"),
        ({"lora_path": "empty"}, 400, "lora_path", "be loaded: empty/rank does not exist"),
        ({"lora_path": "big"}, 400, "lora_path", "rank is 64, and max_lora_rank 16"),
        ({"lora_path": 3}, 400, "lora_path", "lora_path must be a valid string, got 3"),
        ({"lora_path": None}, 400, "lora_path", "lora_path must be a valid string, got None"),
        ({"lora_name": ""}, 400, "lora_name", "must be printable text of at most 256"),
        ({"lora_name": "a\nb"}, 400, "lora_name", "must be printable text of at most 256"),
        ({"lora_name": "a" * 257}, 400, "lora_name", "must be printable text of at most 256"),
        ({"lora_name": "fake/model"}, 400, "lora_name", "is the base model's"),
        ({"load_inplace": 1}, 400, "load_inplace", "must be a valid boolean"),
        ({"is_3d": True}, 400, "is_3d", "unknown field 'is_3d'"),
    ],
)
def test_bad_loads(
    directory: Path, body: dict[str, Any], status: int, param: str, message: str
) -> None:
    engine = FakeEngine()
    body = {"lora_name": "mine", "lora_path": "one", **body}
    answer = post(make(engine, directory), "/v1/load_lora_adapter", body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert message in error["message"]
    assert engine.known == {}


def test_bad_unloads(directory: Path) -> None:
    app = make(FakeEngine(), directory)
    answer = unload(app, "mine")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "adapter_not_found")
    assert "'mine' cannot be found" in answer.json()["error"]["message"]
    assert unload(app, 3).status_code == 400
    assert post(app, "/v1/unload_lora_adapter", {}).status_code == 400


def test_off_unless_allowed() -> None:
    app = make_app(FakeEngine())
    for answer in (load(app, "mine", "one"), unload(app, "mine")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")


def test_the_key_is_asked_for(directory: Path) -> None:
    app = make(FakeEngine(), directory, api_keys=("right",))
    assert load(app, "mine", "one").status_code == 401
    assert unload(app, "mine").status_code == 401


def test_one_of_two_that_load_the_same_name_wins(directory: Path) -> None:
    engine = FakeEngine()
    app = make(engine, directory)

    async def both() -> list[int]:
        async with http_client(app) as client:
            bodies = [{"lora_name": "mine", "lora_path": path} for path in ("one", "sub/two")]
            answers = await asyncio.gather(
                *(client.post("/v1/load_lora_adapter", json=body) for body in bodies)
            )
            return sorted(answer.status_code for answer in answers)

    assert run(both()) == [200, 400]
    assert list(engine.known) == ["mine"]
