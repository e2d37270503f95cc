"""Ctrl-C at many moments of the commands' lives: each ends cleanly, and none is lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.compile_cache import shared_directory
from tests.e2e.tiny_model import write_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

_BAD = re.compile(r"Traceback|ImportError|FATAL|terminate|Fatal|Segmentation|Aborted")
SIZES = ["--kv-cache-size", "8MiB", "--max-model-len", "128", "--max-num-seqs", "4"]


def commands(model: Path, directory: Path) -> dict[str, list[str]]:
    """What each command is given."""
    texts = directory / "texts.jsonl"
    texts.write_text('{"text": "one two three"}\n{"text": "four five six"}\n')
    train = ["--data", str(texts), "--sequence-length", "32", "--batch-size", "2"]
    return {
        "serve": [str(model), "--port", "0", *SIZES, "--data-dir", "DATA"],
        "generate": [str(model), "-p", "hello", "--max-tokens", "64", *SIZES],
        "train": ["--model", str(model), *train, "--num-steps", "1", "--output-dir", "OUT"],
        "eval": [str(model), "--data", str(texts), "--sequence-length", "32"],
    }


NUM_MOMENTS = {"serve": 10, "generate": 6, "train": 5, "eval": 4}  # each starts a process


def start(arguments: list[str], directory: Path) -> subprocess.Popen[str]:
    """Starts a command. A server has nothing compiled before it; others share the tests' cache."""
    directory.mkdir()
    environment = {**os.environ, "FLAXEN_CACHE": str(shared_directory())}
    if arguments[0] == "serve":
        environment["FLAXEN_CACHE"] = str(directory / "cache")
    return subprocess.Popen(
        [sys.executable, "-m", "flaxen", *arguments],
        env=environment, cwd=directory, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def life(arguments: list[str], directory: Path) -> float:
    """Seconds until a command ends, or a server is ready."""
    start_s = time.monotonic()
    process = start(arguments, directory)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "is served on" in line:
                break
        else:
            assert process.wait(60) == 0
        return time.monotonic() - start_s
    finally:
        process.kill()
        process.communicate()


def interrupt(arguments: list[str], directory: Path, after_s: float) -> tuple[int, str]:
    """Sends SIGINT to a command after a while. Returns its exit code and what it wrote."""
    process = start(arguments, directory)
    try:
        time.sleep(after_s)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
        return process.returncode, output + errors
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", list(NUM_MOMENTS))
def test_ctrl_c_at_any_moment(name: str, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    arguments = [name, *commands(model, tmp_path)[name]]
    if name != "serve":
        life(arguments, tmp_path / "first")  # fills the cache, so that the others take as long
    life_s = life(arguments, tmp_path / "whole")
    moments = [life_s * (i + 1) / NUM_MOMENTS[name] for i in range(NUM_MOMENTS[name])]
    with ThreadPoolExecutor(2) as pool:
        ends = list(
            pool.map(
                lambda i: interrupt(arguments, tmp_path / f"run{i}", moments[i]),
                range(len(moments)),
            )
        )
    for after_s, (code, written) in zip(moments, ends, strict=True):
        seen = f"{name}, SIGINT after {after_s:.2f} of {life_s:.2f} s: exit {code}\n{written}"
        # 0: the command had ended, or the server had drained.
        assert code in (130, 0), seen
        assert not _BAD.search(written), seen
    assert sum(code == 130 for code, _ in ends) > len(ends) / 2
