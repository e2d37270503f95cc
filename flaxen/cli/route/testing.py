"""`flaxen route test`: whether a configuration decides probes as they expect."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flaxen.cli.groups import option
from flaxen.cli.route.asked import FileArgument, load
from flaxen.cli.route.learned import LearnedOptions

if TYPE_CHECKING:
    from flaxen.cli.route.outcomes import Outcomes
    from flaxen.cli.route.probes import Probe

_COLUMNS = ("agree", "disagree", "need a model")


def run_probes(
    file: FileArgument,
    probes: Annotated[
        Path,
        typer.Argument(metavar="PROBES", help="Requests with the decisions that are expected."),
    ],
    learned: LearnedOptions,
    shows_all: bool = option(
        False, "--verbose", "-v", help="Name the variants that need a model, too."
    ),
) -> None:
    """Test a configuration by probes: requests with the decisions that are expected.

    PROBES is in the format of the reference's probes.yaml. With neither --heads nor --encoder a
    variant that depends on a signal of a model is counted apart, never as passed. Exits with 1 if a
    decision is another than expected.
    """
    from rich.console import Console
    from rich.table import Table

    from flaxen.cli.route.outcomes import Outcomes
    from flaxen.cli.route.probes import read_probes

    config = load(file)
    counts: dict[str, Counter[str]] = {}
    console = Console(highlight=False)
    with learned.asking(config) as find:
        outcomes = Outcomes(config, find)
        for probe in read_probes(probes.read_text("utf-8")):
            column, text = _verdict(probe, outcomes)
            counts.setdefault(probe.recipe, Counter())[column] += 1
            if column == "disagree" or (column == "need a model" and shows_all):
                console.print(f"{probe.name}: {text}", soft_wrap=True, markup=False)
    if not counts:
        raise ValueError(f"{probes} has no variants: there is nothing to test")
    whole = sum(counts.values(), Counter())
    table = Table("recipe", *_COLUMNS)
    for name, each in (*counts.items(), ("all", whole)):
        table.add_row(name, *(str(each[column]) for column in _COLUMNS))
    console.print(table)
    if whole["disagree"]:
        raise SystemExit(1)


def _verdict(probe: Probe, outcomes: Outcomes) -> tuple[str, str]:
    """The column that a probe counts in, and what is said of it."""
    recipe = outcomes.config.recipes.get(probe.recipe)
    if recipe is None:
        return "disagree", f"there is no recipe {probe.recipe}"
    outcome = outcomes.of(probe.request, recipe)
    if outcome.missing:
        return "need a model", f"needs {', '.join(sorted(map(str, outcome.missing)))}"
    got = outcome.reason if outcome.decided.fails else outcome.decision or "none"
    if got == (probe.decision or "none"):
        return "agree", ""
    return "disagree", f"expected {probe.decision or 'none'}, got {got}"
