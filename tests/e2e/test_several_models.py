"""`flaxen serve A B`: one process, models that take turns, and what a client sees of that."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.e2e.serving import serve
from tests.e2e.tiny_model import write_tiny_model


@pytest.mark.slow
def test_models_that_take_turns_in_one_process(compile_cache: Path, tmp_path: Path) -> None:
    for seed, name in enumerate(("one", "other")):
        (tmp_path / name).mkdir()
        write_tiny_model(tmp_path / name, seed)
    options = (
        *(str(tmp_path / "other"), "--models-memory", "300KiB", "--dtype", "bfloat16"),
        *("--max-num-seqs", "2", "--max-num-batched-tokens", "32", "--offline"),
    )
    path = f"first,alias={tmp_path / 'one'}"
    with serve(compile_cache, tmp_path / "log", *options, path=path, model="first") as server:
        found = {
            model: server.complete("Hello", model=model, max_tokens=4).choices[0].text
            for model in ("first", "other", "alias")
        }
        assert found["first"] == found["alias"] != found["other"]
        listed = server.http.get("/v1/models").json()["data"]
        states = {model["id"]: model["status"]["value"] for model in listed}
        assert states == {"first": "loaded", "alias": "loaded", "other": "unloaded"}
        assert server.http.post("/v1/completions", json={"model": "x"}).status_code == 404
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
    log = (tmp_path / "log").read_text()
    assert "so the least recently used is unloaded" in log
    assert log.count("unloaded the model") == 2
