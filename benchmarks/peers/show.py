"""The comparison as tables for people and as figures for JSON.

Deliberately does not measure or judge.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table

from flaxen.benchmark.ideal import ModelCost
from flaxen.benchmark.limits import Limits

from .compare import Measured, Outcome
from .serving import FIGURES, ServerOutcome
from .targets import Verdict

_SERVER_HEADERS = (
    "output\ntok/s", "TTFT\np50 ms", "TTFT\np99 ms", "inter-token\np50 ms", "inter-token\np99 ms",
    "start\ns",
)  # fmt: skip
_HEADERS = {"decode_tok_s": "decode", "prompt_tok_s": "prompt", "output_tok_s": "output"}


def limit_shares(measured: Measured, cost: ModelCost, limits: Limits) -> list[float]:
    """Each repetition's share of the machine's limit for weights of that size."""
    return [rep.limit_share(cost, limits) for rep in measured.reps]


def speeds_table(
    outcomes: Sequence[Outcome], costs: Mapping[str, ModelCost], limits: Limits
) -> Table:
    """A row for each engine, a column for each workload: tokens a second, share of the limit."""
    names = list(dict.fromkeys(name for outcome in outcomes for name in outcome.measured))
    table = Table(
        box=box.SIMPLE,
        caption="tokens a second, medians, and their shares of the machine's limit",
        caption_justify="left",
    )
    table.add_column("", no_wrap=True)
    for name in names:
        kind = next(
            next(iter(outcome.measured[name].figures))
            for outcome in outcomes
            if name in outcome.measured
        )
        table.add_column(f"{name}\n{_HEADERS[kind]}", justify="right", no_wrap=True)
    for header in ("TTFT of A\nms", "start\ns", "peak\nGiB"):
        table.add_column(header, justify="right", no_wrap=True)
    for outcome in outcomes:
        cells = []
        for name in names:
            measured = outcome.measured.get(name)
            if measured is None:
                cells.append("-")
                continue
            shares = limit_shares(measured, costs[outcome.engine.name], limits)
            speed = statistics.median(measured.speeds)
            cells.append(f"{_number(speed)} {statistics.median(shares):>4.0%}")
        ttft_ms = [
            value
            for measured in outcome.measured.values()
            for value in measured.figures.get("ttft_ms", ())
        ]
        table.add_row(
            outcome.engine.name + (" [red]failed[/]" if outcome.error else ""),
            *cells,
            _number(statistics.median(ttft_ms)) if ttft_ms else "-",
            _number(outcome.startup_s),
            f"{outcome.peak_rss_bytes / 2**30:.1f}",
        )
    return table


def verdicts_table(verdicts: Sequence[Verdict]) -> Table:
    """A row for each target."""
    table = Table(box=box.SIMPLE)
    for header in ("workload", "ours", "against", "what"):
        table.add_column(header, no_wrap=True)
    for header in ("reached", "wanted"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for verdict in verdicts:
        table.add_row(
            verdict.workload,
            verdict.ours,
            verdict.against,
            verdict.what,
            f"{verdict.reached:.2f}",
            ("<= " if verdict.is_most else ">= ") + f"{verdict.wanted:.2f}",
            "[green]met[/]" if verdict.is_met else "[red]missed[/]",
        )
    return table


def servers_table(outcomes: Sequence[ServerOutcome]) -> Table:
    """A row for each server under vLLM's client; medians."""
    table = Table(box=box.SIMPLE, caption="S: 32 requests, 16 at a time", caption_justify="left")
    table.add_column("", no_wrap=True)
    for header in _SERVER_HEADERS:
        table.add_column(header, justify="right", no_wrap=True)
    for outcome in outcomes:
        cells = [_number(statistics.median(values)) for values in outcome.figures.values()]
        cells += ["-"] * (len(FIGURES) - len(cells))
        failed = " [red]failed[/]" if outcome.error else ""
        table.add_row(outcome.server.name + failed, *cells, _number(outcome.startup_s))
    return table


def as_figures(
    outcomes: Sequence[Outcome],
    verdicts: Sequence[Verdict],
    costs: Mapping[str, ModelCost],
    limits: Limits,
) -> dict[str, Any]:
    """Every figure of one model, for JSON."""
    return {
        "engines": {
            outcome.engine.name: {
                "versions": outcome.versions,
                "startup_s": outcome.startup_s,
                "peak_rss_bytes": outcome.peak_rss_bytes,
                "weight_bytes": costs[outcome.engine.name].weight_bytes,
                "error": outcome.error,
                "workloads": {
                    name: {
                        **{key: summary(values) for key, values in measured.figures.items()},
                        "limit_share": summary(
                            limit_shares(measured, costs[outcome.engine.name], limits)
                        ),
                    }
                    for name, measured in outcome.measured.items()
                },
            }
            for outcome in outcomes
        },
        "targets": [asdict(verdict) | {"is_met": verdict.is_met} for verdict in verdicts],
    }


def servers_as_figures(outcomes: Sequence[ServerOutcome]) -> dict[str, Any]:
    """Every figure of the servers, for JSON."""
    return {
        outcome.server.name: {
            "startup_s": outcome.startup_s,
            "peak_rss_bytes": outcome.peak_rss_bytes,
            "error": outcome.error,
            **{name: summary(values) for name, values in outcome.figures.items()},
        }
        for outcome in outcomes
    }


def summary(values: Sequence[float]) -> dict[str, Any]:
    """The median, the least, the most, and each run."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "runs": list(values),
    }


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
