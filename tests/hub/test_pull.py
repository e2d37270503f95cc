"""Models are downloaded by the real client from a stand-in of the hub: whole, verified, resumed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flaxen.hub.client import HubError
from flaxen.hub.local import find_downloaded
from flaxen.hub.names import HubModel
from flaxen.hub.places import Places
from flaxen.hub.pull import plan, pull
from tests.full_disk import fill_disk_of
from tests.hub_server import TOKEN, Hub, commit_of, run_hub

CHUNK = 10 * 2**20  # the client writes what it receives in pieces of this size
WEIGHTS = bytes(range(256)) * 64
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b'{"version": "1.0"}',
    "model.safetensors": WEIGHTS,
    "modeling.py": b"raise SystemExit",
    "pytorch_model.bin": b"pickle",
    "additional_chat_templates/tools.jinja": b"{{ tools }}",
}
SAFE = {name: data for name, data in FILES.items() if not name.endswith((".py", ".bin"))}
BIG = os.urandom(2**20) * 25  # 2.5 of the client's pieces
MODEL = HubModel("org/model")
GGUF = HubModel("org/m-GGUF", "Q4_0")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with run_hub() as hub:
        hub.add("org/model", FILES)
        hub.add("org/m-GGUF", {"m-Q4_0.gguf": BIG, "mmproj-F16.gguf": WEIGHTS})
        yield hub


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no token"))


@pytest.fixture(params=["cache", "directory"])
def places(request: pytest.FixtureRequest, hub: Hub, tmp_path: Path) -> Places:
    models_dir = tmp_path / "models" if request.param == "directory" else None
    return Places(cache_dir=tmp_path / "hub", models_dir=models_dir, endpoint=hub.endpoint)


def ignore(name: str, done: int, total: int) -> None:
    pass


def contents(directory: Path) -> dict[str, bytes]:
    paths = [path for path in directory.rglob("*") if path.is_file()]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}


def test_a_model_is_downloaded_without_pickle_and_code(hub: Hub, places: Places) -> None:
    assert find_downloaded(MODEL, places) is None
    found = pull(MODEL, places, ignore)
    assert contents(found) == SAFE
    assert find_downloaded(MODEL, places) == found
    assert not [each for each in hub.asked if each.path.endswith((".py", ".bin"))]


def test_a_second_time_nothing_is_downloaded(hub: Hub, places: Places) -> None:
    found = pull(MODEL, places, ignore)
    assert plan(MODEL, places).num_missing == 0
    hub.asked.clear()
    assert pull(MODEL, places, ignore) == found
    assert not [each for each in hub.asked if each.method == "GET" and "/api/" not in each.path]


def test_progress_counts_the_bytes_of_all_files(places: Places) -> None:
    seen: list[tuple[str, int, int]] = []
    pull(MODEL, places, lambda *event: seen.append(event))
    total = sum(map(len, SAFE.values()))
    assert seen[-1][1:] == (total, total)
    assert {name for name, _, _ in seen} == set(SAFE)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_a_file_goes_on_where_it_broke_off_in_the_same_run(hub: Hub, tmp_path: Path) -> None:
    places = Places(cache_dir=tmp_path, endpoint=hub.endpoint)
    hub.breaks = [CHUNK + 1000]
    found = pull(GGUF, places, ignore)
    assert found.read_bytes() == BIG
    assert hub.ranges() == [None, f"bytes={CHUNK}-"]


def test_a_file_goes_on_where_it_broke_off_in_a_later_run(hub: Hub, places: Places) -> None:
    def interrupt(name: str, done: int, total: int) -> None:
        if done == 2 * CHUNK:  # the second piece is there, but not yet written
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(GGUF, places, interrupt)
    assert find_downloaded(GGUF, places) is None
    assert plan(GGUF, places).num_missing == len(BIG) - CHUNK
    seen: list[int] = []
    assert pull(GGUF, places, lambda _, done, total: seen.append(done)).read_bytes() == BIG
    assert hub.ranges() == [None, f"bytes={CHUNK}-"]
    assert seen[0] == CHUNK  # what was there counts from the start
    assert seen[-1] == len(BIG)


def test_a_server_without_ranges_sends_all_again(hub: Hub, tmp_path: Path) -> None:
    places = Places(cache_dir=tmp_path, endpoint=hub.endpoint)
    hub.breaks, hub.ignores_ranges = [CHUNK + 1000], True
    seen: list[int] = []
    assert pull(GGUF, places, lambda _, done, total: seen.append(done)).read_bytes() == BIG
    assert seen[-1] == len(BIG)


def test_a_damaged_file_is_found_by_its_hash_and_deleted(hub: Hub, places: Places) -> None:
    for name in ("model.safetensors", "tokenizer.json"):  # by SHA-256, and by git's hash
        hub.damaged = {name}
        with pytest.raises(ValueError, match=rf"{name} arrived damaged: its hash is .*run the"):
            pull(MODEL, places, ignore)
        assert find_downloaded(MODEL, places) is None
    hub.damaged = set()
    assert contents(pull(MODEL, places, ignore)) == SAFE


def test_a_newer_revision_replaces_what_changed(hub: Hub, places: Places) -> None:
    pull(MODEL, places, ignore)
    hub.add("org/model", FILES | {"tokenizer.json": b'{"version": "2.0"}'})
    assert plan(MODEL, places).num_missing == len(b'{"version": "2.0"}')
    found = pull(MODEL, places, ignore)
    assert contents(found) == SAFE | {"tokenizer.json": b'{"version": "2.0"}'}
    assert find_downloaded(MODEL, places) == found


def test_a_revision_is_kept_beside_main(hub: Hub, places: Places) -> None:
    files = FILES | {"config.json": b'{"a": 1}'}
    hub.add("org/model", files, "v1")
    pull(MODEL, places, ignore)
    for revision in ("v1", commit_of(files)):
        model = HubModel("org/model", revision=revision)
        found = pull(model, places, ignore)
        assert (found / "config.json").read_bytes() == b'{"a": 1}'
        assert find_downloaded(model, places) == found
    main = find_downloaded(MODEL, places)
    assert main is not None
    assert (main / "config.json").read_bytes() == b"{}"


def test_a_gated_repository_says_how_to_get_access(
    hub: Hub, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated = {"org/model"}
    message = r"gated: accept its licence at https://huggingface.co/org/model, log in by `hf auth"
    with pytest.raises(HubError, match=message):
        pull(MODEL, places, ignore)
    monkeypatch.setenv("HF_TOKEN", "hf_of_another")
    with pytest.raises(HubError, match=message):
        pull(MODEL, places, ignore)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert contents(pull(MODEL, places, ignore)) == SAFE


def test_the_token_is_given_to_the_hub_and_to_no_other_host(
    hub: Hub, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    pull(MODEL, places, ignore)
    tokens = {each.path.startswith("/cdn/"): each.token for each in hub.asked}
    assert tokens == {False: f"Bearer {TOKEN}", True: None}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            HubModel("org/other"),
            r"the hub has no model org/other, or it is private: check the name",
        ),
        (HubModel("org/model", revision="v9"), r"org/model has no revision v9: give a branch"),
        (HubModel("org/mo..del"), r"org/mo\.\.del can't be the name of a repository"),
    ],
)
def test_what_the_hub_does_not_have(places: Places, model: HubModel, message: str) -> None:
    with pytest.raises(HubError, match=message):
        pull(model, places, ignore)


def test_no_hub_at_all(tmp_path: Path) -> None:
    places = Places(cache_dir=tmp_path, endpoint="http://127.0.0.1:9")
    with pytest.raises(
        HubError, match=r"the hub can't be reached for org/model \(ConnectError.*HF_E"
    ):
        pull(MODEL, places, ignore)


def test_a_model_larger_than_the_disk_is_refused_before_it_begins(hub: Hub, places: Places) -> None:
    enough = sum(map(len, SAFE.values()))
    assert plan(MODEL, places).num_missing == enough
    with pytest.raises(
        ValueError, match=r"org/model needs 16\.4 kB more, and the disk of .* has 1"
    ):
        plan(MODEL, places, num_free_of=lambda _: 1000)
    plan(MODEL, places, num_free_of=lambda _: enough)
    assert hub.ranges() == []


def test_a_disk_that_fills_up_says_so_and_keeps_what_is_there(hub: Hub, places: Places) -> None:
    directory = plan(GGUF, places).target.place(plan(GGUF, places).missing[0]).parent

    def fill(name: str, done: int, total: int) -> None:
        if done == 2 * CHUNK:
            fill_disk_of(directory)

    with pytest.raises(
        ValueError, match=r"is full: m-Q4_0\.gguf needs 15\.7 MB more.*goes on from"
    ):
        pull(GGUF, places, fill)
    assert find_downloaded(GGUF, places) is None
    assert pull(GGUF, places, ignore).read_bytes() == BIG
    assert hub.ranges() == [None, f"bytes={CHUNK}-"]


def test_two_at_once_download_a_file_once(hub: Hub, places: Places) -> None:
    """The second waits for the first, whatever the first does with the file when it has it."""
    begun, waits = threading.Event(), threading.Event()

    def first(name: str, done: int, total: int) -> None:
        if done:
            begun.set()
            waits.wait(10)
            time.sleep(0.05)  # until the second asks for the lock

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(pull, GGUF, places, first)
        begun.wait(10)
        two = pool.submit(pull, GGUF, places, lambda *_: waits.set())
        assert one.result().read_bytes() == two.result().read_bytes() == BIG
    assert hub.ranges() == [None]


def test_two_files_of_a_repository_at_once(hub: Hub, places: Places) -> None:
    """The one that ends first leaves the other's unfinished file alone."""
    hub.repos["org/m-GGUF"]["main"]["m-Q8_0.gguf"] = WEIGHTS
    ended = threading.Event()

    def first(name: str, done: int, total: int) -> None:
        if done:
            ended.wait(10)

    with ThreadPoolExecutor(1) as pool:
        one = pool.submit(pull, GGUF, places, first)
        assert pull(HubModel("org/m-GGUF", "Q8_0"), places, ignore).read_bytes() == WEIGHTS
        ended.set()
        assert one.result().read_bytes() == BIG
