"""How every benchmark ends: one JSON line with its figures, the code, the machine and the versions.

Deliberately does not know what is measured.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

PACKAGES = ("jax", "jaxlib", "numpy")
HERE = Path(__file__).parent


def report(name: str, figures: Mapping[str, object], *, write: bool = False) -> None:
    """Prints the final JSON line of a benchmark.

    Args:
      name: the benchmark's; also its file's.
      figures: what was measured, with the unit in each key.
      write: also write it to benchmarks/results/<name>.json, for the repository to keep.
    """
    record = {
        "benchmark": name,
        "figures": dict(figures),
        "git_sha": _git_sha(),
        "hardware": _hardware(),
        "versions": _versions(),
    }
    print(json.dumps(record), flush=True)
    if write:
        path = HERE / "results" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record, indent=2) + "\n")


def _git_sha() -> str:
    """The commit, with -dirty if tracked files differ from it; "unknown" outside a repository."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _hardware() -> dict[str, object]:
    return {
        "machine": platform.machine(),
        "cpu": _first_value("/proc/cpuinfo", "model name") or platform.processor() or "unknown",
        "num_cpus": os.cpu_count(),
        "memory": _first_value("/proc/meminfo", "MemTotal") or "unknown",
    }


def _first_value(path: str, key: str) -> str | None:
    """The value of the first `key: value` line of one of Linux's files; None elsewhere."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(key):
            return line.partition(":")[2].strip()
    return None


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
