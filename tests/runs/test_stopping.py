"""A signal stops a run after its step, and saves it; resumed, it ends at the same bits."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import flaxen
from flaxen.cli.main import main
from flaxen.runs.stopping import stop_at_signals
from tests.cli.train.tiny_training import train, write_model, write_texts
from tests.compile_cache import shared_directory


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("data") / "texts.jsonl")


def test_the_first_signal_is_noted_and_the_second_acts() -> None:
    seen: list[tuple[str, int]] = []
    before = signal.getsignal(signal.SIGUSR1)
    with stop_at_signals(
        (signal.SIGUSR1,),
        at_first=lambda number: seen.append(("first", number)),
        at_second=lambda number: seen.append(("second", number)),
    ) as stop:
        assert not stop()
        signal.raise_signal(signal.SIGUSR1)
        assert stop()
        signal.raise_signal(signal.SIGUSR1)
    assert seen == [("first", signal.SIGUSR1), ("second", signal.SIGUSR1)]
    assert stop.signal == signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) == before


def _kill_at(step: int, number: int) -> Callable[[object], None]:
    """A callback of flaxen.train that sends this process a signal after a step."""

    def on_metrics(record: object) -> None:
        assert isinstance(record, dict)
        if record["step"] == step:
            signal.raise_signal(number)  # to this thread, at once

    return on_metrics


def test_ctrl_c_in_python_saves_and_is_raised(model: Path, texts: Path, tmp_path: Path) -> None:
    settings = {
        "method": "lora", "num_steps": 4, "batch_size": 2, "sequence_length": 24, "rank": 4,
        "compile_cache": shared_directory(),
    }  # fmt: skip
    whole = flaxen.train(model, data=texts, output_dir=tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt) as caught:
        flaxen.train(
            model, data=texts, output_dir=tmp_path / "cut", **settings,
            on_metrics=_kill_at(2, signal.SIGINT),
        )  # fmt: skip
    saved = tmp_path / "cut" / "checkpoints" / "2"
    assert caught.value.__notes__ == [f"stopped after 2 of 4 steps; the state is saved in {saved}"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    again = flaxen.train(model, data=texts, output_dir=tmp_path / "cut", resume=True, **settings)
    names = [tmp_path / each / "adapter" / "adapter_model.safetensors" for each in ("whole", "cut")]
    assert names[0].read_bytes() == names[1].read_bytes()
    assert (whole.num_steps, again.num_steps) == (4, 4)
    assert [record["step"] for record in again.metrics] == [3, 4]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_how_to_go_on(
    model: Path, texts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], number: int
) -> None:
    """A thread of the test sends the signal once the first step's metrics are there."""
    output = tmp_path / "out"
    more = ("--num-steps", 3000, "--rank", 2, "--set", "checkpoint.every=100000")

    def send() -> None:
        metrics = output / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.01)
        signal.raise_signal(number)  # to this thread, at once

    thread = threading.Thread(target=send)
    thread.start()
    assert train(model, texts, output, shared_directory(), *more) == 128 + number
    thread.join()
    errors = capfd.readouterr().err
    assert "stopping once the current step is done and saved" in errors
    (saved,) = (output / "checkpoints").iterdir()
    assert f"stopped after {saved.name} of 3,000 steps; the state is saved in {saved}" in errors
    assert f"Go on from there with: flaxen train --model {model}" in errors
    assert "--resume" in errors
    assert not (output / "adapter").exists()


def test_a_run_goes_where_its_model_says(
    model: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    shutil.copytree(model, tmp_path / "my model")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(f"num_steps: 1\ndata: {{files: [{texts}], batch_size: 2}}\n")
    cache = ["--compile-cache", str(shared_directory()), "--peak-flops", "1e9"]
    sizes = ["--sequence-length", "24", "--rank", "2"]
    assert main(["train", "run.yaml", "my model", *sizes, *cache]) == 0
    said = capsys.readouterr()
    assert "runs/my-model/adapter: 1 step of training" in said.out
    assert "my model, lora: " in said.err
    assert "beside the model's" in said.err
    assert main(["train", "my model", "run.yaml", *sizes, *cache]) == 2
    assert "another output_dir, such as runs/my-model-2" in capsys.readouterr().err
    (tmp_path / "run.yaml").write_text("num_setps: 1\n")
    assert main(["train", "my model", "run.yaml", *cache]) == 2
    assert "error: run.yaml: there is no setting num_setps: did you mean num_steps" in (
        capsys.readouterr().err
    )
    assert main(["train", "run.yaml", "other.yaml"]) == 2
    assert "run.yaml and other.yaml are both files of settings" in capsys.readouterr().err
