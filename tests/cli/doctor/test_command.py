"""`flaxen doctor` as a user runs it: on this machine, and where JAX is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flaxen.doctor.facts import PulledModel
from flaxen.doctor.report import text
from tests.doctor.test_advice import GOOD


def test_the_report_of_a_good_machine() -> None:
    model = PulledModel(name="smollm2-135m", kind="GGUF", num_bytes=98_400_000)
    lines = text(replace(GOOD, models=(model,)), []).splitlines()
    assert "  smollm2-135m          GGUF, 98.4 MB" in lines
    assert lines[-2:] == ["What to fix", "  nothing"]
    assert (
        "  kernels               avx2, 4 threads, the best of this machine (also portable)" in lines
    )
    assert "  memory bandwidth      20.0 GB/s" in lines
    assert "  extras                no torch" in lines


def test_several_devices_are_a_mesh() -> None:
    compute = replace(GOOD.compute, devices=("gpu:0", "gpu:1"))
    lines = text(replace(GOOD, compute=compute), []).splitlines()
    assert "  mesh                  2 devices, as --mesh tensor=2" in lines


@pytest.mark.slow
def test_this_machine() -> None:
    command = [sys.executable, "-m", "flaxen", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert done.returncode == any(each["is_broken"] for each in found["findings"])
    assert found["failures"] == []
    assert found["compute"]["kernels"]["isa"] in (*found["compute"]["kernels"]["supported"], "xla")
    assert found["compute"]["speeds"]["read_bytes_s"] > 1e8
    assert found["compute"]["speeds"]["matmul_flops"]["float32"] > 1e8


@pytest.mark.slow
def test_a_broken_jax_is_told_and_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "jax.py").write_text("raise ImportError('this jax needs another jaxlib')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    environment.pop("JAX_PLATFORMS", None)  # which the doctor would blame
    command = [sys.executable, "-m", "flaxen", "doctor"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "broken: JAX can't be used: ImportError: this jax needs another jaxlib" in done.stdout
    assert "pip install --force-reinstall jax jaxlib" in done.stdout
    assert "port 8000" in done.stdout
