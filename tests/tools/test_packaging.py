"""What pip makes of this repository where there is no C++ compiler. With one: tests/kernels."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import flaxen

ROOT = Path(__file__).parents[2]
SCRIPTS = sysconfig.get_path("scripts")  # pip's cmake and ninja

pytestmark = pytest.mark.slow


def test_a_wheel_without_a_compiler(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", "wheel", "-v", "--no-build-isolation", "--no-deps",
            "--no-index", "--wheel-dir", str(tmp_path), "-C", f"build-dir={tmp_path / 'build'}",
            str(ROOT),
        ],
        env={**os.environ, "PATH": SCRIPTS, "CXX": "/nowhere/g++"},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No C++ compiler found: flaxen is built without its CPU kernels" in done.stderr
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"flaxen-{flaxen.__version__}-py3-none-")
    content = zipfile.ZipFile(wheel)
    names = content.namelist()
    assert "flaxen/py.typed" in names
    assert "flaxen/__main__.py" in names
    assert "flaxen/kernels/cpu_library.py" in names
    assert not [name for name in names if name.endswith(".so") or not name.startswith("flaxen")]
    about = f"flaxen-{flaxen.__version__}.dist-info"
    assert "flaxen = flaxen.cli.start:main" in content.read(f"{about}/entry_points.txt").decode()
    metadata = email.message_from_bytes(content.read(f"{about}/METADATA"))
    assert metadata["Requires-Python"] == "<3.14,>=3.11"
    assert {"flax", "torch", "parquet", "postgresql"} <= set(metadata.get_all("Provides-Extra"))
    assert f"{about}/licenses/LICENSE" in names


@pytest.mark.skipif(not shutil.which("g++"), reason="there is no g++")
def test_a_compiler_is_found_once_it_is_there(tmp_path: Path) -> None:
    command = ["cmake", "-S", str(ROOT / "csrc"), "-B", str(tmp_path), "-DFLAXEN_FFI_INCLUDE=/none"]
    path = os.pathsep.join((SCRIPTS, os.environ["PATH"]))
    is_found = []
    for compiler in ("/nowhere/g++", "g++"):
        done = subprocess.run(
            command,
            env={**os.environ, "PATH": path, "CXX": compiler},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        is_found.append("without its CPU kernels" not in done.stderr)
    assert is_found == [False, True]
