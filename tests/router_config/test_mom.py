"""The public reference's own file is read unchanged, and a file of ours with all of its keys."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import pytest

from flaxen.router.decisions.tree import SignalKey
from flaxen.router.signals.found import Found
from flaxen.router_config.items import Item, parse_items
from flaxen.router_config.load import load_config
from tests.router.decisions.at_once import decide

OWN = Path(__file__).with_name("own.yaml").read_text("utf-8")


def reference() -> str:
    try:
        package = importlib.metadata.distribution("vllm-sr")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs the reference's configuration: pip install --no-deps vllm-sr")
    path = Path(str(package.locate_file("cli/model_assets/latest/mom-v1/config.yaml")))
    return path.read_text("utf-8")


def test_our_file_decides() -> None:
    config = load_config(OWN)
    recipe = config.recipes["careful"]
    order = ["guard", "sensitive", "agent", "review", "rest"]
    assert [rules.name for rules in recipe.rules] == order
    assert recipe.rules[0].on_unknown == "fail_request"
    assert recipe.rules[-1].tree is None
    assert len(recipe.used) == 15
    assert config.entrypoints == {}  # it names no entrypoint, and has no default recipe

    def winner(**found: Found) -> str | None:
        def compute(key: SignalKey) -> Found:
            return found.get(
                key.name.replace("-", "_").replace(":", "_"), Found(matched=False, value=0.0)
            )

        deciding = decide(recipe.rules, compute, compute, projections=recipe.projections)
        decided = deciding.decided()
        return decided.rules.name if decided.rules else None

    yes = Found(matched=True, value=1.0)
    assert winner() == "rest"
    assert winner(attack=yes, private=yes) == "guard"
    assert winner(content_risk_weapons=yes) == "sensitive"
    assert winner(advice=yes, health=yes) == "sensitive"
    assert winner(advice=yes, meaning=yes, health=yes) == "rest"
    assert winner(advice=yes, health=yes, quoted=yes) == "rest"
    assert winner(answered=yes, again=yes, correction=yes) == "agent"
    assert winner(difficulty_hard=yes, tools=yes) == "review"


def test_mom_is_read() -> None:
    config = load_config(reference())
    assert list(config.recipes) == ["balance", "speed", "cost", "accuracy", "vault"]
    assert {name: len(recipe.rules) for name, recipe in config.recipes.items()} == {
        "balance": 3,
        "speed": 3,
        "cost": 3,
        "accuracy": 4,
        "vault": 3,
    }
    rules = [rules for recipe in config.recipes.values() for rules in recipe.rules]
    assert [sum(r.on_unknown == p for r in rules) for p in ("match", "fail_request")] == [3, 2]
    assert sum(r.tree is None for r in rules) == 5


def test_our_file_has_all_keys_of_mom() -> None:
    missing = set(_keys(parse_items(reference()))) - set(_keys(parse_items(OWN)))
    # Keys of blocks that are read as they are, and never served.
    assert {key for key in missing if "fusion" not in key and "workflows" not in key} == set()


def _keys(item: Item, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all keys, without indices and without the depth of rules."""
    if isinstance(item.value, dict):
        for key, below in item.value.items():
            path = above if key == "conditions" and "conditions" in above else (*above, key)
            yield path
            yield from _keys(below, path)
    elif isinstance(item.value, list):
        for below in item.value:
            yield from _keys(below, above)
