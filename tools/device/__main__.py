"""Runs the parts of the device check one after the other, and prints one line of JSON at the end.

PYTHONPATH=.:tools python -m device [--tiny] [--part NAME]... [--write]
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .figures import read
from .parts import PARTS, TOTAL_S, Part
from .targets import judged

_ROOT = Path(__file__).parents[2]
_LIMITS = ("copy_bytes_s", "matmul_flops")
_STOP_S = 5.0  # for a part to end after it was told to


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a tiny model: tries the check itself")
    parser.add_argument("--part", action="append", choices=[each.name for each in PARTS])
    parser.add_argument("--total-s", type=float, default=TOTAL_S)
    parser.add_argument("--out", type=Path, help="a folder for the JSON line, beside stdout")
    args = parser.parse_args()
    found = run_parts(args.part, tiny=args.tiny, total_s=args.total_s)
    record = {
        "benchmark": "device",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "git_sha": git_sha(),
        "python": sys.version.split()[0],
        "is_tiny": args.tiny,
        "parts": found,
        "targets": judged(found),
    }
    line = json.dumps(record)
    if args.out is not None:
        name = f"device-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M}.json"
        (args.out / name).write_text(line + "\n")
    print(line, flush=True)
    return int(any(each.get("error") for each in found.values()))


def run_parts(names: list[str] | None, *, tiny: bool, total_s: float) -> dict[str, dict[str, Any]]:
    """Runs the parts that were asked for, or all. A part gets its time, and what those before it
    have left.
    """
    found: dict[str, dict[str, Any]] = {}
    modules: set[str] = set()
    start_s = time.monotonic()
    given_s = 0.0  # to all parts so far
    for part in PARTS:
        if names is not None and part.name not in names:
            continue
        if tiny and part.module in modules:  # another size of the same, and all sizes are tiny
            continue
        modules.add(part.module)
        given_s += part.limit_s
        limits = {name: found.get("limits", {}).get(name) for name in _LIMITS}
        known = {name: value for name, value in limits.items() if value is not None}
        left_s = start_s + min(given_s, total_s) - time.monotonic()
        if left_s < 1:
            found[part.name] = {"cut_after_s": 0}
            continue
        found[part.name] = run_part(part, known, tiny=tiny, limit_s=left_s)
        print(f"{part.name}: {json.dumps(found[part.name])}", file=sys.stderr, flush=True)
    return found


def run_part(
    part: Part, limits: Mapping[str, float], *, tiny: bool, limit_s: float
) -> dict[str, Any]:
    """Runs one part in a process of its own. Returns its figures, and how it ended.

    Args:
      part: the part.
      limits: the device's, as far as they were measured.
      tiny: whether the part runs at a tiny size.
      limit_s: seconds until it is ended.
    """
    command = [sys.executable, "-m", f"device.{part.module}", *part.arguments]
    command += ["--tiny"] if tiny else []
    command += ["--limits", json.dumps(dict(limits))] if part.takes_limits else []
    start_s = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=_ROOT,
        env=environment(part, os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    is_cut = False
    try:
        stdout, stderr = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        is_cut = True
        stdout, stderr = _end(process)
    found = read(stdout)
    seconds = round(time.monotonic() - start_s, 1)
    if is_cut:
        return {**found, "cut_after_s": seconds}
    if process.returncode != 0:
        lines = [line for line in stderr.splitlines() if line.strip()] or ["nothing was said"]
        found["error"] = f"ended with {process.returncode}: {lines[-1]}"[:500]
        print(stderr[-3000:], file=sys.stderr)
    return {**found, "seconds": seconds}


def _end(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Ends a part, gently at first. Returns what it printed."""
    process.terminate()
    try:
        return process.communicate(timeout=_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()


def environment(part: Part, variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of a part's process.

    Args:
      part: the part.
      variables: this process's. DEVICE_SITE is the folder of the libraries that `check.sh` added;
          a foreign part runs without them.
    """
    found = dict(variables)
    places = [str(_ROOT / "tools"), str(_ROOT)]
    if part.is_foreign:
        places = places[:1]
    elif site := variables.get("DEVICE_SITE"):
        places.append(site)
    found["PYTHONPATH"] = os.pathsep.join(places)
    # One process after the other has the device: none may keep what it does not use.
    found.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if "XLA_PYTHON_CLIENT_MEM_FRACTION" not in found:
        found.setdefault("XLA_CLIENT_MEM_FRACTION", "0.95")
    return found


def git_sha() -> str:
    """The commit; "unknown" outside a repository, or without git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            cwd=_ROOT,
            capture_output=True,
            text=True,
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or os.environ.get("DEVICE_GIT_SHA", "unknown")


if __name__ == "__main__":
    sys.exit(main())
