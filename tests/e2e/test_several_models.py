"""`flaxen serve A B --router FILE`: one process, models that take turns, a router before them, and
what a client sees of that."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.e2e.serving import serve
from tests.e2e.tiny_model import write_tiny_model

ROUTER = """
version: v0.3
providers: {defaults: {model: first}}
routing:
  signals: {keywords: [{name: sums, operator: OR, keywords: [sum]}]}
  decisions:
    - {name: math, rules: {type: keyword, name: sums}, modelRefs: [{model: other}]}
"""


@pytest.mark.slow
def test_models_that_take_turns_in_one_process(compile_cache: Path, tmp_path: Path) -> None:
    for seed, name in enumerate(("one", "other")):
        (tmp_path / name).mkdir()
        write_tiny_model(tmp_path / name, seed)
    options = (
        *(str(tmp_path / "other"), "--models-memory", "300KiB", "--dtype", "bfloat16"),
        *("--max-num-seqs", "2", "--max-num-batched-tokens", "32", "--offline"),
    )
    (tmp_path / "router.yaml").write_text(ROUTER)
    options = (*options, "--router", str(tmp_path / "router.yaml"))
    path = f"first,alias={tmp_path / 'one'}"
    with serve(compile_cache, tmp_path / "log", *options, path=path, model="first") as server:

        def complete(model: str, prompt: str) -> str:
            text: str = server.complete(prompt, model=model, max_tokens=4).choices[0].text
            return text

        found = {}
        for model, routed in (("first", "Hello"), ("other", "A sum"), ("alias", "")):
            found[model] = complete(model, "Hello")
            if routed:  # the same as if it were asked by its name
                assert complete("auto", routed) == complete(model, routed)
        assert found["first"] == found["alias"] != found["other"]
        listed = server.http.get("/v1/models").json()["data"]
        assert [each["id"] for each in listed][:3] == ["vllm-sr/auto", "auto", "MoM"]
        states = {each["id"]: each["status"]["value"] for each in listed[3:]}
        assert states == {"first": "loaded", "alias": "loaded", "other": "unloaded"}
        assert server.http.post("/v1/completions", json={"model": "x"}).status_code == 404
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
    log = (tmp_path / "log").read_text()
    assert "so the least recently used is unloaded" in log
    assert log.count("unloaded the model") == 2
