"""The commands with a real model, in processes of their own, as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

MODEL = "smollm2-135m"
FLAXEN = [sys.executable, "-m", "flaxen"]
SMALL = ["--kv-cache-size", "64MiB", "--max-model-len", "512"]
# Few and small steps to compile, where the defaults are not what is tested.
QUICK = [*SMALL, "--max-num-seqs", "4", "--max-num-batched-tokens", "32"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The processes share what they compile, and leave nothing in the user's cache."""
    return {**os.environ, "FLAXEN_CACHE": str(tmp_path_factory.mktemp("cache"))}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*FLAXEN, *arguments], env=environment, capture_output=True, text=True)


def test_generate(environment: dict[str, str]) -> None:
    arguments = ["generate", MODEL, "-p", "The capital of France is", "--max-tokens", "8"]
    plain = run(environment, *arguments)  # with every default
    assert plain.returncode == 0, plain.stderr
    assert "Paris" in plain.stdout
    document = json.loads(run(environment, *arguments, *QUICK, "--json").stdout)
    assert document["text"] == plain.stdout.removesuffix("\n")
    assert document["num_output_tokens"] == 8
    assert document["num_prompt_tokens"] == 5
    assert document["finish_reason"] == "length"


def test_a_model_that_is_not_there(environment: dict[str, str]) -> None:
    done = run(environment, "generate", "/nowhere/model.gguf", "-p", "Hi")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "/nowhere/model.gguf" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_with_130(environment: dict[str, str]) -> None:
    command = [*FLAXEN, "generate", MODEL, "-p", "Once", "--max-tokens", "2000"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    time.sleep(5)  # while it loads or generates: both must end the same way
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in error


@pytest.fixture
def server(environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*FLAXEN, "serve", MODEL, "--port", str(port), "--drain-s", "120", *QUICK]
    process = subprocess.Popen(command, env=environment)
    try:
        deadline_s = time.monotonic() + 300
        while True:
            assert process.poll() is None, "the server ended at its start"
            assert time.monotonic() < deadline_s, "the server is not healthy after 300 s"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except OSError:
                time.sleep(0.1)
        yield process, port
    finally:
        process.kill()
        process.wait()


def test_sigterm_lets_a_stream_finish(server: tuple[subprocess.Popen[bytes], int]) -> None:
    process, port = server
    body = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 200, "temperature": 0}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions",
        json.dumps({**body, "stream": True, "ignore_eos": True}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        first = response.readline()
        process.send_signal(signal.SIGTERM)
        rest = response.read().decode()
    assert first.startswith(b"data: {")
    events = [line for line in rest.splitlines() if line]
    assert events[-1] == "data: [DONE]"
    assert json.loads(events[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
    assert process.wait(30) == 0


def test_chat_here_and_with_a_server_say_the_same(
    server: tuple[subprocess.Popen[bytes], int], environment: dict[str, str]
) -> None:
    _, port = server

    def converse(*where: str) -> str:
        done = subprocess.run(
            [*FLAXEN, "chat", *where, "--temperature", "0", "--max-tokens", "16"],
            input="What is the capital of Germany?\n/reset\nHello!\nAnd Spain?\n",
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    remote = converse("--url", f"http://127.0.0.1:{port}")
    assert "Berlin" in remote
    assert remote.count("\n") >= 3
    assert converse(MODEL, *SMALL) == remote
    # A script gets the answer alone.
    asked = ["-p", "What is the capital of Germany?", "--temperature", "0", "--max-tokens", "16"]
    once = run(environment, "chat", MODEL, *asked, *SMALL)
    assert once.returncode == 0
    assert once.stdout
    assert remote.startswith(once.stdout)


def test_chats_without_a_seed_differ(environment: dict[str, str]) -> None:
    def say(*seed: str) -> str:
        done = subprocess.run(
            [*FLAXEN, "chat", MODEL, "--temperature", "2", "--max-tokens", "16", *SMALL, *seed],
            input="Hello!\n", env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert say() != say()
    assert say("--seed", "7") == say("--seed", "7")


def test_bench(environment: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    rep = {"prompts": [[2000, 2001], [2002, 2003]], "out": [4, 6]}
    workloads = tmp_path / "workloads.json"
    workloads.write_text(json.dumps({"workloads": {"tiny": {"desc": "tiny", "reps": [rep]}}}))
    done = run(
        environment, "bench", MODEL, "--workloads", str(workloads), "--reps", "1",
        "--json", str(file), *QUICK,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert document == json.loads(file.read_text())
    tiny = document["workloads"]["tiny"]
    assert tiny["output_tok_s"]["median"] > 0
    assert 0 < tiny["limit_share"]["median"] < 1
    assert 0 <= tiny["kv_waste"] < 1
    assert 0 < tiny["scheduler_share"] < 1
    assert document["model"] == MODEL
