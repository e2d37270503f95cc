"""What a configuration decides for a request of a router's log."""

from __future__ import annotations

from typing import Any

from flaxen.cli.route.outcomes import Outcomes
from flaxen.router.replay_log import LoggedRequest
from flaxen.router.request import RoutedRequest
from flaxen.router.requests.readers import read_request
from flaxen.router.signals.kinds import KINDS, Cost
from flaxen.router_config.recipe import Recipe

# Kinds whose findings a body alone does not give again: models', and those of trusted headers.
_NOT_IN_BODIES = {"authz", *(kind.condition for kind in KINDS if kind.cost is Cost.LEARNED)}


def told(outcomes: Outcomes, logged_by: Outcomes, logged: LoggedRequest) -> str | None:
    """What a configuration decides for a logged request, as a text; None if that depends on what is
    not in the log.

    Args:
      logged_by: the configuration that wrote the log.
    """
    config, body = outcomes.config, logged.body
    if body is None:
        request = RoutedRequest(api=logged.api, model="")
        recipe = config.recipes.get(logged.recipe)
    else:
        request = read_request(logged.api, body)
        recipe = config.recipe_of(request.model)
    if recipe is None:
        return "no recipe"
    earlier = logged_by.config.recipes.get(logged.recipe)
    kept = {
        key: found
        for key, found in logged.found.items()
        if (body is None or key[0] in _NOT_IN_BODIES)
        and _rules_of(recipe, *key) == (earlier and _rules_of(earlier, *key))
    }
    outcome = outcomes.of(request, recipe, kept, seed=logged.id, reads=body is not None)
    if outcome.missing:
        return None
    model = outcome.model or ("refused" if outcome.decided.fails else "no model")
    return f"{recipe.name}, {outcome.decision or 'no decision'}: {model}"


def _rules_of(recipe: Recipe, condition: str, name: str) -> list[Any]:
    """The rules behind a signal, whose name may have a level or a label behind a colon."""
    kind = next(kind for kind in KINDS if kind.condition == condition)
    rules = recipe.routing.signals.rules.get(kind.collection, ())
    return [rule for rule in rules if getattr(rule, kind.named_by) in (name, name.split(":")[0])]
