"""`flaxen plan` as a user types it, from shapes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flaxen.cli.main import main
from tests.planning.shapes import config_only


def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, *options: str) -> tuple[int, str, str]:
    directory = config_only(tmp_path / "llama-8b")
    code = main(["plan", str(directory), "--no-compile", "--max-model-len", "8192", *options])
    return code, *capsys.readouterr()


def test_one_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(capsys, tmp_path, "--target", "v6e-8", "--mesh", "tensor=8")
    assert (code, err.strip()) == (0, "")
    rows = {cells[0]: cells[1:] for cells in table_rows(out)}
    assert rows["weights"] == ["1.9 GiB", "5.8%"]
    assert rows["sequences at once"] == ["210", "of 8,192 tokens"]
    assert rows["all-reduce"] == ["65, 258.0 MiB", "65, 2.0 GiB"]
    assert rows["most of it"] == ["memory", "links"]
    assert "Serving fits: 3.2 GiB of each device is left." in out
    assert "From shapes alone: nothing was compiled, as was asked." in out


def table_rows(out: str) -> list[list[str]]:
    lines = [line for line in out.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_what_does_not_fit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, tmp_path, "--target", "v5e-1")
    assert code == 1
    assert "Serving does not fit: each device lacks 3.7 GiB. Use a mesh with a larger" in out
    assert "a step" not in out


def test_json_has_every_figure(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, tmp_path, "--target", "h100-8", "-tp", "4", "-dp", "2", "--json")
    found = json.loads(out)
    serving = found["serving"]
    assert code == 0
    assert (found["mesh"]["tensor"], found["mesh"]["data"], found["num_devices"]) == (4, 2, 8)
    assert found["why_not_compiled"] == "nothing was compiled, as was asked"
    assert sum(serving["memory"]["parts"].values()) == serving["memory"]["used_bytes"]
    assert serving["decode"]["load"]["num_seqs"] == serving["max_num_seqs"] == 256
    assert serving["decode"]["times"]["least_s"] > serving["decode"]["times"]["memory_s"]
    assert serving["prefill"]["work"]["collectives"][0]["count"] == 65


def test_training_is_planned_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ("--target", "v6e-8", "--mesh", "tensor=8", "--train", "lora", "--remat", "layer")
    code, out, _ = run(capsys, tmp_path, *options)
    rows = {cells[0]: cells[1:] for cells in table_rows(out)}
    assert code == 0
    assert rows["frozen parameters"] == ["1.9 GiB", "5.8%"]
    assert rows["rows"] == ["8", "of 2,048 tokens"]
    assert "Serving fits" in out
    assert "Training fits" in out


def test_a_mesh_of_training_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ("--target", "v6e-8", "--mesh", "fsdp=8", "--train", "full", "--json")
    code, out, _ = run(capsys, tmp_path, *options)
    found = json.loads(out)
    parts = found["training"]["memory"]["parts"]
    assert (code, found["serving"]) == (0, None)
    assert parts["optimizer state"] == pytest.approx(2 * parts["master parameters"], abs=10)
    assert parts["master parameters"] == found["num_params"] // 8 * 4
    assert found["training"]["sequence_length"] == 2048


def test_sizes_of_a_training_that_is_not_planned_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = run(capsys, tmp_path, "--target", "h100", "--batch-size", "4")
    assert code == 2
    assert "--batch-size, --sequence-length and --remat are those of a training step" in err


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(capsys, tmp_path, "--target", "h100-8", "--mesh", "tensor=5")
    assert (code, out) == (2, "")
    assert "error: the mesh tensor=5 is not of 8 devices, which h100-8 has" in err
    assert "use --mesh tensor=8" in err
