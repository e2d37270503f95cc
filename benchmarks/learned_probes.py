"""How many of the public reference's probes its own configuration decides as they expect, with
learned signals. They are in the package vllm-sr."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxen.cli.route.probes import Probe, read_probes
from flaxen.learned_signals.encoder import Encoder
from flaxen.learned_signals.head import Head
from flaxen.learned_signals.learned_signals import LearnedSignals
from flaxen.learned_signals.making import learned_signals
from flaxen.router.decisions.deciding import Deciding
from flaxen.router.decisions.tree import SignalKey
from flaxen.router.signals.finding import FreeSignals
from flaxen.router.signals.found import Found
from flaxen.router.signals.settings import SignalSettings
from flaxen.router_config.load import load_config
from flaxen.router_config.recipe import Recipe

_FREE = ("keyword", "conversation", "structure")


async def agreement(encoder: Encoder, heads: Mapping[str, Head]) -> dict[str, Any] | None:
    """How many decisions agree, by recipe, and each disagreement with what learned signals found;
    None if the package is not installed."""
    try:
        package = importlib.metadata.distribution("vllm-sr")
    except importlib.metadata.PackageNotFoundError:
        return None
    files = Path(str(package.locate_file("cli/model_assets/latest/mom-v1")))
    config = load_config((files / "config.yaml").read_text("utf-8"))
    signals: dict[str, tuple[FreeSignals, LearnedSignals]] = {}
    for name, recipe in config.recipes.items():
        rules = recipe.routing.signals.rules
        catalog = config.settings.model_catalog
        learned = await learned_signals(encoder, rules, catalog, heads, timeout_s=600)
        signals[name] = FreeSignals(rules, SignalSettings()), learned
    agree, total = Counter[str](), Counter[str]()
    others = []
    for probe in read_probes((files / "probes.yaml").read_text("utf-8")):
        recipe = config.recipes[probe.recipe]
        got, why = await decide(probe, recipe, *signals[probe.recipe])
        total[probe.recipe] += 1
        agree[probe.recipe] += got == probe.decision
        if got != probe.decision:
            others.append(
                {"variant": probe.name, "expected": probe.decision, "got": got, "why": why}
            )
    return {
        "agree": agree.total(),
        "variants": total.total(),
        "by_recipe": {name: f"{agree[name]} of {total[name]}" for name in total},
        "disagreements": others,
    }


def table(result: Mapping[str, Any]) -> str:
    """The disagreements of `agreement` as a table of Markdown, by recipe."""
    lines = [
        "# Probes that our heads decide otherwise than the reference expects",
        "",
        f"{result['agree']} of {result['variants']} variants agree. Written by "
        "`benchmarks/router_learned.py probes --write`; each line has the learned signals that "
        "matched.",
        "",
        "| variant | expected | decided | because |",
        "| --- | --- | --- | --- |",
    ]
    for each in result["disagreements"]:
        row = (each["variant"], each["expected"], each["got"], each["why"] or "no signal matched")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


async def decide(
    probe: Probe, recipe: Recipe, free: FreeSignals, learned: LearnedSignals
) -> tuple[str, str]:
    """The decision of a probe, and the learned signals that matched or are unknown."""
    find = free.of(probe.request)
    deciding = Deciding(
        recipe.rules, lambda key: find(*key), recipe.routing.strategy, recipe.projections
    )
    while missing := deciding.advance():
        deciding.give(await learned.find(probe.request, sorted(missing)))
    rules = deciding.decided().rules
    found = sorted(deciding.known.found.items())
    why = [_said(key, each) for key, each in found if key.kind not in _FREE]
    return "" if rules is None else rules.name, ", ".join(filter(None, why))


def _said(key: SignalKey, found: Found) -> str:
    if found.matched is False:
        return ""
    return f"{key} {'unknown' if found.matched is None else found.reason}"
