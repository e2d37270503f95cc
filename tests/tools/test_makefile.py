"""Which Python `make` builds its environment with."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="there is no make")


def dry_run(directory: Path, **pythons: bool) -> subprocess.CompletedProcess[str]:
    """`make -n wheel` where only these Pythons are found, and some of them fit."""
    path = directory / "bin"
    path.mkdir()
    for name, fits in pythons.items():
        script = path / name.replace("_", ".")
        script.write_text(f"#!/bin/sh\nexit {int(not fits)}\n")
        script.chmod(0o755)
    shutil.copy(ROOT / "Makefile", directory)
    make = shutil.which("make") or "make"
    environment = {"PATH": str(path), "HOME": os.environ.get("HOME", "/")}
    return subprocess.run(
        [make, "-n", "wheel"], cwd=directory, env=environment, capture_output=True, text=True
    )


def test_the_first_python_that_fits_is_taken(tmp_path: Path) -> None:
    done = dry_run(tmp_path, python3_11=False, python3_12=True, python3=True)
    assert "python3.12 -m venv .venv" in done.stdout, done.stderr


def test_a_python_without_a_number_will_do(tmp_path: Path) -> None:
    done = dry_run(tmp_path, python3=True)
    assert "python3 -m venv .venv" in done.stdout, done.stderr


def test_without_a_python_it_says_which_to_install(tmp_path: Path) -> None:
    done = dry_run(tmp_path, python3=False)
    assert done.returncode == 2
    assert "no Python 3.11 to 3.13 that can make environments was found" in done.stderr
    assert "apt-get install python3 python3-venv" in done.stderr
