"""Downloads the wheels that a machine with CUDA and JAX but no network lacks to run flaxen.

    python tools/device/wheels.py FOLDER

pip says what an install of flaxen's requirements on that machine would take; what it has is left
out. Deliberately does not install anything.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
# The machine: it is asked for nothing but Python and JAX with its GPU plugin, and what they need.
_PYTHON = "3.12"
_JAX = "jax==0.11.*"
_THERE = ("jax", "jaxlib", "ml-dtypes", "numpy", "opt-einsum", "scipy")
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")
_MOST_BYTES = 60_000_000


def main() -> None:
    (folder,) = map(Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    wanted = missing(resolve(requirements(_ROOT / "pyproject.toml")))
    _pip("download", "--no-deps", "--dest", str(folder), *_target(), *wanted)
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.whl")}
    check_size(sizes)
    print(f"{len(sizes)} wheels of {sum(sizes.values()) / 1e6:.1f} MB are in {folder}")


def requirements(pyproject: Path) -> list[str]:
    """flaxen's own requirements, with the machine's JAX in place of its range."""
    with pyproject.open("rb") as file:
        listed: list[str] = tomllib.load(file)["project"]["dependencies"]
    return [*(each for each in listed if not each.startswith("jax>=")), _JAX]


def resolve(wanted: Iterable[str]) -> dict[str, Any]:
    """pip's report of what an install on the machine would take; nothing is installed."""
    arguments = ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    # pip holds a package against the Python that it runs on, also where another one was named.
    arguments += ["--ignore-requires-python"]
    said = _pip(*arguments, *_target(), "--target", "unused", *wanted)
    report: dict[str, Any] = json.loads(said)
    return report


def missing(report: dict[str, Any]) -> list[str]:
    """The packages of a report, NAME==VERSION, that the machine does not have."""
    return list(_missing(report))


def _missing(report: dict[str, Any]) -> Iterator[str]:
    for each in report["install"]:
        name = each["metadata"]["name"].lower().replace("_", "-")
        if name not in _THERE:
            yield f"{name}=={each['metadata']['version']}"


def check_size(sizes: dict[str, int]) -> None:
    """Raises ValueError if the wheels are larger together than may be carried."""
    total = sum(sizes.values())
    if total > _MOST_BYTES:
        largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
        raise ValueError(
            f"the wheels have {total / 1e6:.1f} MB, and at most {_MOST_BYTES / 1e6:.0f} are "
            f"carried; the largest are {', '.join(largest)}"
        )


def _target() -> list[str]:
    platforms = [f"--platform={name}_x86_64" for name in _PLATFORMS]
    return ["--only-binary=:all:", f"--python-version={_PYTHON}", *platforms]


def _pip(*arguments: str) -> str:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:  # pip has said why
        raise SystemExit(f"pip {arguments[0]} failed")
    return done.stdout


if __name__ == "__main__":
    main()
