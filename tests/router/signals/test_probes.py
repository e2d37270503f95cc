"""The free signals of mom-v1, the public reference's own configuration, on its own probes.

They are in the package vllm-sr, which is no dependency: where it is installed, this runs.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flaxen.cli.route.probes import body_of
from flaxen.router.requests.chat import read_chat
from flaxen.router.signals.kinds import KINDS
from flaxen.router.signals.settings import Finder, SignalSettings
from tests.router.signals.rules import BY_COLLECTION, build

FREE = [kind for kind in KINDS if kind.prepare is not None]


def assets() -> Path:
    try:
        package = importlib.metadata.distribution("vllm-sr")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs the reference's configuration: pip install --no-deps vllm-sr")
    return Path(str(package.locate_file("cli/model_assets/latest/mom-v1")))


def read(name: str) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    result: dict[str, Any] = yaml.load((assets() / name).read_text("utf-8"), Loader=loader)
    return result


def test_every_rule_of_the_reference_is_read() -> None:
    numbers: dict[str, int] = {}
    for recipe in read("config.yaml")["recipes"]:
        for collection, rules in recipe["routing"]["signals"].items():
            for rule in rules:
                built = build(BY_COLLECTION[collection].rule, rule)
                assert built.name == rule["name"]
            numbers[collection] = numbers.get(collection, 0) + len(rules)
    assert numbers["keywords"] == 45
    assert numbers["conversation"] == 16


def test_free_signals_are_as_its_probes_expect() -> None:
    """Every expected and every forbidden free signal of all variants, and how many they are."""
    finders = {
        recipe["name"]: list(free_finders(recipe["routing"]["signals"]))
        for recipe in read("config.yaml")["recipes"]
    }
    probes = read("probes.yaml")
    images = probes["fixtures"]["images"]
    misses: list[str] = []
    numbers = {"expected": 0, "forbidden": 0, "variants": 0}
    free = {kind.shown_as for kind in FREE}
    for decision in probes["decisions"]:
        for variant in decision["variants"]:
            numbers["variants"] += 1
            request = read_chat(body_of(variant, images), {})
            there = {
                (key, name)
                for key, names, find in finders[decision["expected_recipe"]]
                for name, result in zip(names, find(request), strict=True)
                if result.matched
            }
            expected = variant.get("expected_signals", decision.get("expected_signals")) or {}
            forbidden = decision.get("forbidden_signals") or {}
            for what, lists in (("expected", expected), ("forbidden", forbidden)):
                for key, names in lists.items():
                    if key not in free:
                        continue
                    numbers[what] += 1
                    misses += [
                        f"{decision['id']}/{variant['id']}: {what} {key} {name}"
                        for name in names
                        if ((key, name) in there) != (what == "expected")
                    ]
    assert misses == []
    assert numbers == {"expected": 166, "forbidden": 22, "variants": 315}


def free_finders(signals: dict[str, Any]) -> Iterator[tuple[str, list[str], Finder]]:
    for kind in FREE:
        rules = [build(kind.rule, rule) for rule in signals.get(kind.collection, [])]
        if rules and kind.prepare is not None:
            names = [rule.name for rule in rules]
            yield kind.shown_as, names, kind.prepare(rules, SignalSettings())
