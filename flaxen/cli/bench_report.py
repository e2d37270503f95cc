"""How `flaxen bench` shows its results: a table for people, one line of JSON for programs.

Deliberately does not measure anything.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

import flaxen
from flaxen.cli.bench_limits import Limits
from flaxen.cli.bench_run import Result

_UNITS = {
    "decode_tok_s": "decode tok/s",
    "prompt_tok_s": "prompt tok/s",
    "output_tok_s": "output tok/s",
    "ttft_ms": "ms to the first token",
    "e2e_tok_s": "tok/s with the prompt",
}


def limits_line(limits: Limits) -> str:
    """The machine's limits, in words."""
    products = ", ".join(
        f"{flops / 1e9:,.0f} GFLOP/s in {dtype}" for dtype, flops in limits.matmul_flops.items()
    )
    return f"memory reads {limits.read_bytes_s / 1e9:.1f} GB/s; products {products}"


def table(results: Sequence[Result]) -> Table:
    """One row a figure; medians, with the least and the most of the repetitions."""
    rows = Table("workload", "figure", title_justify="left")
    for column in ("median", "min-max", "of the limit", "KV waste", "scheduler"):
        rows.add_column(column, justify="right", no_wrap=True)
    for result in results:
        for i, (name, values) in enumerate(result.figures.items()):
            cells = [f"{statistics.median(values):,.1f}", f"{min(values):,.1f}-{max(values):,.1f}"]
            if i == 0:
                cells += [
                    f"{statistics.median(result.limit_shares):.1%}",
                    f"{result.kv_waste:.1%}",
                    f"{result.scheduler_share:.1%}",
                ]
            label = f"[bold]{result.name}[/] {result.description}" if i == 0 else ""
            rows.add_row(label, _UNITS[name], *cells)
    return rows


def as_json(results: Sequence[Result], limits: Limits, setup: dict[str, Any]) -> dict[str, Any]:
    """Everything that is needed to compare this run with another."""
    return {
        "flaxen": flaxen.__version__,
        "git_sha": _git_sha(),
        **setup,
        "hardware": _hardware(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy")},
        },
        "limits": {"read_bytes_s": limits.read_bytes_s, "matmul_flops": limits.matmul_flops},
        "peak_rss_bytes": _peak_rss_bytes(),
        "workloads": {
            result.name: {
                **{name: _summary(values) for name, values in result.figures.items()},
                "limit_share": _summary(result.limit_shares),
                "kv_waste": result.kv_waste,
                "scheduler_share": result.scheduler_share,
            }
            for result in results
        },
    }


def _summary(values: Sequence[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "runs": list(values),
    }


def _git_sha() -> str | None:
    """The commit that the package runs from, "+" when its files were changed; None if unknown."""
    git = ["git", "-C", str(Path(flaxen.__file__).parent)]
    try:
        # An installed copy may lie in a checkout of something else: then it is not tracked there.
        tracked = subprocess.run([*git, "ls-files", "__init__.py"], capture_output=True)
        sha = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        changes = subprocess.run([*git, "status", "--porcelain", "."], capture_output=True)
    except OSError:  # git is not installed
        return None
    if sha.returncode != 0 or not tracked.stdout:
        return None
    return sha.stdout.strip() + ("+" if changes.stdout else "")


def _hardware() -> dict[str, Any]:
    model = platform.processor()
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {"machine": platform.machine(), "cpu": model, "num_cpus": os.cpu_count()}


def _peak_rss_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes, but bytes on macOS
