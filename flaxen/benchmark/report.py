"""Shows the results of `flaxen bench`: a table for people, one line of JSON for programs.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

import flaxen
from flaxen.benchmark.ideal import ModelCost
from flaxen.benchmark.limits import Limits
from flaxen.benchmark.measure import Result

_UNITS = {
    "decode_tok_s": "decode tok/s",
    "prompt_tok_s": "prompt tok/s",
    "output_tok_s": "output tok/s",
    "ttft_ms": "TTFT ms",
    "e2e_tok_s": "end-to-end tok/s",
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """The measured results, and what is needed to compute shares of the limits."""

    results: Sequence[Result]
    cost: ModelCost
    limits: Limits

    def limit_shares(self, result: Result) -> list[float]:
        """Each repetition's share of the machine's limit."""
        return [rep.limit_share(self.cost, self.limits) for rep in result.reps]


def limits_line(limits: Limits) -> str:
    """The machine's limits as text."""
    products = ", ".join(
        f"{flops / 1e9:,.0f} GFLOP/s in {dtype}" for dtype, flops in limits.matmul_flops.items()
    )
    return f"memory reads {limits.read_bytes_s / 1e9:.1f} GB/s; products {products}"


def table(report: Report) -> Table:
    """A table with one row for each figure: medians, minima and maxima over the repetitions."""
    lines = [f"{result.name}: {result.description}" for result in report.results]
    rows = Table(box=box.SIMPLE, caption="\n".join(lines), caption_justify="left")
    rows.add_column("", no_wrap=True)
    rows.add_column("figure", no_wrap=True)
    for column in ("median", "min-max", "of limit", "KV waste", "scheduler"):
        rows.add_column(column, justify="right", no_wrap=True)
    for result in report.results:
        for i, (name, values) in enumerate(result.figures.items()):
            spread = f"{_number(min(values))}-{_number(max(values))}"
            cells = [_UNITS[name], _number(statistics.median(values)), spread]
            if i == 0:
                cells += [
                    f"{statistics.median(report.limit_shares(result)):.1%}",
                    f"{result.kv_waste:.1%}",
                    f"{result.scheduler_share:.1%}",
                ]
            rows.add_row(f"[bold]{result.name}[/]" if i == 0 else "", *cells)
    return rows


def as_json(report: Report, setup: dict[str, Any]) -> dict[str, Any]:
    """Everything needed to compare this run with another, as JSON."""
    limits = report.limits
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
                "description": result.description,
                **{name: _summary(values) for name, values in result.figures.items()},
                "limit_share": _summary(report.limit_shares(result)),
                "kv_waste": result.kv_waste,
                "scheduler_share": result.scheduler_share,
            }
            for result in report.results
        },
    }


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _summary(values: Sequence[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "runs": list(values),
    }


def _git_sha() -> str | None:
    """The package's commit, with "+" if files were changed; None if unknown."""
    git = ["git", "-C", str(Path(flaxen.__file__).parent)]
    try:
        # An installed copy may be inside a checkout of another project, where it is not tracked.
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
