"""`flaxen` on two processes of two virtual devices each, and what happens when one ends."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from flaxen import LLM, SamplingParams
from tests.e2e.tiny_model import write_tiny_model
from tests.mesh.two_processes import two_processes

PROMPTS = ["one", "two words", "a third, which is longer"]
COMMON = [
    *("--dtype", "float32", "--max-model-len", "64", "--max-num-seqs", "4", "--mesh", "tensor=4"),
    *("--max-num-batched-tokens", "16", "--compile-size", "16"),
]
_END_S = 20  # a process that is left alone ends by then; it takes about a second
_START_S = 200  # on a machine that does other things too

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("model")))


def test_two_processes_say_what_one_says(model: str, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts"
    prompts.write_text("\n".join(PROMPTS))
    asked = ["--prompts-file", str(prompts), "--temperature", "0", "--max-tokens", "6", "--json"]
    with two_processes(tmp_path, "flaxen", "generate", model, *COMMON, *asked) as processes:
        codes = [each.wait(_START_S) for each in processes]
    errors = [(tmp_path / f"err{index}").read_text() for index in range(2)]
    assert codes == [0, 0], errors
    assert "process 1 of 2: computing for process 0" in errors[1]
    found = [json.loads(line)["text"] for line in (tmp_path / "out0").read_text().splitlines()]
    assert (tmp_path / "out1").read_bytes() == b""
    args = {"dtype": "float32", "max_model_len": 64, "max_num_seqs": 4, "compile_sizes": (16,)}
    args["max_num_batched_tokens"] = 16
    greedy = SamplingParams(temperature=0, max_tokens=6)
    for mesh in ("", "tensor=4"):
        alone = LLM(model, backend="reference", mesh=mesh, **args)  # type: ignore[arg-type]
        assert [each.outputs[0].text for each in alone.generate(PROMPTS, greedy)] == found


def wait_until_ready(directory: Path, process: subprocess.Popen[bytes]) -> str:
    """The URL of the server."""
    deadline_s = time.monotonic() + _START_S
    while True:
        said = (directory / "err0").read_text()
        if ready := re.search(r"is served on (http://\S+)", said):
            return ready[1]
        assert process.poll() is None, said
        assert time.monotonic() < deadline_s, said
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("victim", "number", "codes", "message"),
    [
        (1, signal.SIGKILL, [1, -9], "process 1 has ended, and nothing can be computed without"),
        (0, signal.SIGKILL, [-9, 1], "process 0 has ended without saying that it would"),
        (0, signal.SIGTERM, [0, 0], "process 1 of 2: computing for process 0, until"),
    ],
)
def test_when_one_ends_the_other_ends(
    model: str, tmp_path: Path, victim: int, number: int, codes: list[int], message: str
) -> None:
    with two_processes(tmp_path, "flaxen", "serve", model, *COMMON, "--port", "0") as processes:
        url = wait_until_ready(tmp_path, processes[0])
        body = {"prompt": "one", "max_tokens": 4, "temperature": 0}
        assert httpx.post(f"{url}/v1/completions", json=body, timeout=60).status_code == 200
        processes[victim].send_signal(number)
        ended = [each.wait(_END_S) for each in processes]
    errors = "".join((tmp_path / f"err{index}").read_text() for index in range(2))
    assert ended == codes, errors
    assert message in errors
