"""Decisions of mom-v1 that need no model, on the public reference's own probes.

They are in the package vllm-sr, which is no dependency: where it is installed, this runs.
"""

from __future__ import annotations

from flaxen.router.decisions.deciding import Deciding
from flaxen.router.decisions.known import Find
from flaxen.router.request import RoutedRequest
from flaxen.router.signals.finding import FreeSignals
from flaxen.router.signals.found import NOT_MATCHED
from flaxen.router.signals.settings import SignalSettings
from flaxen.router_config.load import load_config
from tests.router.signals.test_probes import assets, materialize, read


def test_decisions_without_a_model_are_as_its_probes_expect() -> None:
    """Where the free signals decide, they decide as expected, and they do in 63 of 315 variants."""
    config = load_config((assets() / "config.yaml").read_text("utf-8"))
    free = {
        name: FreeSignals(recipe.routing.signals.rules, SignalSettings())
        for name, recipe in config.recipes.items()
    }
    probes = read("probes.yaml")
    wrong: list[str] = []
    num_decided = num_variants = 0
    for decision in probes["decisions"]:
        recipe = config.recipes[decision["expected_recipe"]]
        for variant in decision["variants"]:
            num_variants += 1
            request = materialize(variant, probes["fixtures"]["images"])
            find = finder(free[recipe.name], request)
            deciding = Deciding(recipe.rules, find, "priority", recipe.projections)
            if deciding.advance():
                continue
            num_decided += 1
            rules = deciding.decided().rules
            if rules is None or rules.name != decision["expected_decision"]:
                wrong.append(f"{decision['id']}/{variant['id']}: {rules}")
    assert wrong == []
    assert (num_decided, num_variants) == (63, 315)


def finder(free: FreeSignals, request: RoutedRequest) -> Find:
    """Finds the free signals of a request, and what learned ones say where there is nothing to
    read: no answer that feedback could be of, and no earlier turn that could be repeated."""
    find = free.of(request)
    is_empty = {
        "user_feedback": not request.has_assistant_reply,
        "reask": not request.prior_user,
    }
    return lambda key: NOT_MATCHED if is_empty.get(key.kind) else find(*key)
