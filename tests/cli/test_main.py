"""The command as a user meets it: help, versions, and errors of one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import flaxen
from flaxen.cli.main import exit_code, main

COMMANDS = ("serve", "chat", "generate", "bench", "train", "eval", "parity", "doctor")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"flaxen {flaxen.__version__}\n"


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_explains_each_option(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main([command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    options = [line for line in lines if line.startswith("│") and "--" in line[:8]]
    assert len(options) >= 8
    for line in options:
        # The name, its kind, and some words after a gap.
        assert len(line.strip("│ ").split("  ", 1)[-1].strip()) > 10, line


def test_a_shell_completes_commands_and_options() -> None:
    script = """
        eval "$(flaxen --show-completion)"
        for words in "flaxen doc" "flaxen doctor --no-m"; do
            COMP_WORDS=($words); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            _flaxen_completion flaxen
            echo "${COMPREPLY[*]}"
        done
    """
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == ["doctor", "--no-measure"], done.stderr


@pytest.mark.parametrize("module", ["flaxen", "flaxen.cli.main"])
def test_what_help_imports_is_light(module: str) -> None:
    heavy = ("jax", "jaxlib", "numpy", "fastapi", "uvicorn", "pydantic", "tokenizers")
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_model_is_opened_without_what_only_others_need() -> None:
    """LLM and the engine are imported before the weights are read: nobody waits for a server's, a
    trainer's or a downloader's libraries.
    """
    others = (
        "fastapi", "starlette", "uvicorn", "pydantic", "sqlalchemy", "optax", "huggingface_hub",
        "torch", "transformers", "flax", "typer", "yaml", "pyarrow",
    )  # fmt: skip
    code = f"import sys, flaxen.llm; print([m for m in {others} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_exports_lazily() -> None:
    assert flaxen.SamplingParams(max_tokens=3).max_tokens == 3
    assert dir(flaxen) == sorted(flaxen.__all__)
    assert {"LLM", "attend", "from_nnx", "load"} <= set(dir(flaxen))
    with pytest.raises(AttributeError, match=r"module 'flaxen' has no attribute 'LMM': it has \["):
        _ = flaxen.LMM


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "m", "-p", "-", "-f", "-"], "the standard input (-) is named twice"),
        (["generate", "m", "-p", "a", "--repetition-penalty", "0"], "repetition_penalty must be a"),
        (["generate", "m", "-p", ""], "a prompt is empty: write at least a word"),
        (["generate", "m", "--prompts-file", "/nowhere/x"], "error: /nowhere/x: No such file"),
        (["train"], "the setting model is missing: name the MODEL to train, such as smollm2-135m"),
        (["train", "m"], "the setting data is missing: give --data FILE.jsonl, or `data: {files: "),
        (["chat", "m", "-p", " "], "the prompt is empty: write at least a word"),
        (["chat"], "name a MODEL to run here, such as smollm2-135m, or give the --url of a"),
        (["chat", "--url", "localhost"], "'localhost' is not the URL of a server"),
        (["chat", "--url", "http://127.0.0.1:9", "--adapter", "a"], "MODEL names one of its mod"),
        (["chat", "--url", "http://127.0.0.1:9", "--dtype", "float32"], "are the server's to cho"),
        (["chat", "--url", "http://127.0.0.1:9", "--impl", "torch"], "are the server's to choose"),
        (["chat", "--url", "http://127.0.0.1:9", "--threads", "2"], "are the server's to choose"),
        (["chat", "--url", "http://127.0.0.1:9", "--device", "cpu"], "are the server's to choose"),
        (["chat", "--url", "http://127.0.0.1:9", "--quantization", "int8"], "are the server's to"),
        (["generate", "m", "-p", "a", "--quantization", "int3"], "quantization 'int3' is not supp"),
        (["chat", "--url", "http://127.0.0.1:9"], "no answer from http://127.0.0.1:9"),
        (["bench", "m", "-w", "Z"], "there is no workload 'Z': choose from A, B16, B64, C, D, E"),
        (["bench", "m", "--workloads", "/nowhere/x"], "No such file or directory"),
        (["serve", "m", "--body-timeout-s", "0"], "body_timeout_s must be above 0 seconds, got 0"),
        (["generate", "~nobody-here/m", "-p", "a"], "no directory"),
        (["eval", "~nobody-here/m.py:f", "--data", "x"], "~nobody-here/m.py does not exist"),
        (["serve", "m", "--host", "256.0.0.1"], "can't listen on 256.0.0.1:8000"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "m", "--kv-cache-size", "2 gigs"], "'2 gigs' is not a size"),
        (["serve", "m", "--max-body-size", "0"], "a size must be at least 1 byte, got '0'"),
        (["serve", "m", "--port", "70000"], "Invalid value for '--port'"),
        (["serve"], "Missing argument 'MODEL...'"),
        (["frobnicate"], "No such command 'frobnicate'"),
        (["generate", "m", "-p", "a", "--max-tokens", "0"], "Invalid value for '--max-tokens'"),
    ],
)
def test_a_wrong_option_is_exit_code_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--debug", "generate", "m", "-p", ""]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Traceback (most recent call last)")
    assert "ValueError: a prompt is empty" in error


@pytest.mark.parametrize(
    ("code", "number", "printed"),
    [(None, 0, ""), (0, 0, ""), (143, 143, ""), ("error: it failed", 1, "error: it failed\n")],
)
def test_the_exit_code_of_a_command_that_ends_itself(
    code: int | str | None, number: int, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(SystemExit(code)) == number
    assert capsys.readouterr().err == printed
