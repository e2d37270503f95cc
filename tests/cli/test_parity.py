"""`flaxen parity`: what it prints, and that it ends with 1 where any bit differs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flaxen.cli.main import main
from flaxen.kernels import cpu_library
from flaxen.parity.compare import has_transformers
from tests.e2e.tiny_model import write_tiny_model

needs_kernels = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")
WAYS = ["whole prefill", "chunked prefill", "decode", "cached prefill", "batched"]
PROMPTS = "The quick brown fox jumps over the dog.\n\nA second line, as long as it needs to be.\n"


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command for a tiny model."""
    directory = tmp_path_factory.mktemp("parity")
    model = write_tiny_model(directory / "tiny")
    prompts = directory / "prompts.txt"
    prompts.write_text(PROMPTS)
    return ["parity", str(model), "--prompts-file", str(prompts), "--max-tokens", "5"]


@pytest.fixture(autouse=True)
def restore(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("FLAXEN_CPU_ISA", raising=False)
    yield
    if cpu_library.is_built():
        cpu_library.start(isa=cpu_library.supported_isas()[0])


def check(found: dict[str, Any], num_tokens: list[int]) -> None:
    assert found["num_differing"] == 0
    assert [each["way"] for each in found["ways"]] == WAYS
    assert [each["num_tokens"] for each in found["ways"]] == num_tokens
    for each in found["ways"]:
        assert each["num_differing"] == 0
        assert each["trainer_mean"] == each["mean"] < 0


@needs_kernels
def test_what_it_prints(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 0
    out = capsys.readouterr().out
    assert out.endswith("parity: 0 of 274 log-probabilities differ\n")
    assert all(way in out for way in WAYS)
    assert ("the peers' way" in out) == has_transformers()


@needs_kernels
def test_a_second_implementation_differs(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The contrast: optional, like transformers itself."""
    if not has_transformers():
        pytest.skip("torch and transformers are not installed")
    assert main([*command, "--dtype", "float32", "--json"]) == 0
    contrast = json.loads(capsys.readouterr().out)["contrast"]
    assert contrast["way"].startswith("transformers ")
    assert contrast["num_tokens"] == 78
    assert contrast["num_differing"] > 30
    assert contrast["max_difference"] < 1e-3  # the same model


@pytest.mark.slow  # half a minute of XLA
def test_it_ends_with_1_where_bits_differ(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Through XLA: a step of another shape is another program, which rounds elsewhere."""
    monkeypatch.setenv("FLAXEN_CPU_ISA", "xla")
    monkeypatch.setattr("flaxen.parity.compare.has_transformers", lambda: False)
    short = tmp_path / "short.txt"  # XLA compiles a program for each power of two up to its length
    short.write_text("The quick brown fox jumps.\n")
    assert main([*command, "--prompts-file", str(short), "--dtype", "bfloat16", "--json"]) == 1
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["isa"] == "xla"
    assert 0 < found["num_differing"] == sum(way["num_differing"] for way in found["ways"])
    assert captured.err.endswith(
        f"error: {found['num_differing']} log-probabilities of the server are not the trainer's: "
        "without the C++ kernels they agree to rounding only\n"
    )


def test_a_model_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", "/nowhere/model.gguf"]) == 2
    assert "/nowhere/model.gguf" in capsys.readouterr().err


@pytest.mark.slow
@needs_kernels
def test_the_portable_path_in_a_process_of_its_own(command: list[str], tmp_path: Path) -> None:
    """The others: tests/parity/test_training.py."""
    done = subprocess.run(
        [sys.executable, "-m", "flaxen", *command, "--json"],
        env={**os.environ, "FLAXEN_CPU_ISA": "portable", "FLAXEN_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["isa"] == "portable"
    check(found, [78, 78, 20, 10, 88])


@pytest.mark.slow
@needs_kernels
def test_smollm2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the contrast, which takes longer than all else. Other dtypes: tests/parity."""
    monkeypatch.setattr("flaxen.parity.compare.has_transformers", lambda: False)
    assert main(["parity", "smollm2-135m", "--dtype", "bfloat16", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    num_prompt = found["ways"][0]["num_tokens"]
    assert num_prompt > 400
    check(found, [num_prompt, num_prompt, 288, 144, num_prompt + 144])
