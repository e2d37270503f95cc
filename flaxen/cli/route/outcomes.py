"""Outcomes: what a configuration decides for a request, without a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flaxen.router.decisions.deciding import Decided, Deciding
from flaxen.router.decisions.tree import SignalKey
from flaxen.router.plugins.preparing import signals_of
from flaxen.router.reasoning import Reasons
from flaxen.router.request import RoutedRequest
from flaxen.router.selection.candidate import Facts
from flaxen.router.selection.selected import NoModelError
from flaxen.router.selection.selecting import select
from flaxen.router.signals.finding import FreeSignals
from flaxen.router.signals.found import NOT_MATCHED, Found, unknown
from flaxen.router_config.candidates import candidates_of, policy_of
from flaxen.router_config.recipe import Recipe
from flaxen.router_config.router_config import RouterConfig
from flaxen.routing.deciding import signal_settings, used_rules

_NO_MODEL = unknown("no model computes it in this command")
_NOTHING: Mapping[tuple[str, str], Found] = {}
# What models found in a request, by the name of its recipe, for the signals that are asked for.
FindLearned = Callable[[RoutedRequest, str, Sequence[SignalKey]], Mapping[SignalKey, Found]]


@dataclass(frozen=True)
class Outcome:
    """How one request is decided.

    Attributes:
      missing: the signals of models that were not given, on which the outcome depends; they count
        as unknown.
      found: what signals found, those that the decision's plugins act on too.
      model, reason: what was chosen, "" if nothing, and why.
      reasons: how it is told to reason.
    """

    deciding: Deciding
    decided: Decided
    missing: frozenset[SignalKey]
    found: Mapping[SignalKey, Found]
    model: str
    reason: str
    reasons: Reasons | None = None

    @property
    def decision(self) -> str:
        """The decision's name; "" if none matches."""
        return "" if self.decided.rules is None else self.decided.rules.name


class Outcomes:
    """Decides requests by one configuration.

    Args:
      learned: finds the signals that need a model; without it they are unknown.
    """

    def __init__(self, config: RouterConfig, learned: FindLearned | None = None) -> None:
        self.config, self._learned = config, learned
        settings = signal_settings(config)
        self._free = {
            name: FreeSignals(used_rules(recipe), settings)
            for name, recipe in config.recipes.items()
        }

    def of(
        self,
        request: RoutedRequest,
        recipe: Recipe,
        given: Mapping[tuple[str, str], Found] = _NOTHING,
        *,
        seed: str = "",
        reads: bool = True,
    ) -> Outcome:
        """Decides a request.

        Args:
          given: what signals found, by the condition's type and name.
          seed: what weights are drawn by.
          reads: whether free signals read the request; without, `given` is all there is.
        """
        free = self._free[recipe.name].of(request)
        # Where there is nothing to read: no answer that feedback could be of, no earlier turn.
        is_empty = {
            "user_feedback": not request.has_assistant_reply,
            "reask": not request.prior_user,
        }

        def find(key: SignalKey) -> Found | None:
            if key in given or not reads:
                return given.get(key)
            return NOT_MATCHED if is_empty.get(key.kind) else free(*key)

        deciding = Deciding(recipe.rules, find, recipe.routing.strategy, recipe.projections)
        missing: set[SignalKey] = set()
        while asked := deciding.advance():
            if self._learned is not None:
                deciding.give(self._learned(request, recipe.name, sorted(asked)))
                continue
            missing |= asked
            deciding.give(dict.fromkeys(asked, _NO_MODEL))
        decided = deciding.decided()
        found = dict(deciding.known.found)
        if self._learned is not None and decided.rules is not None:
            plugins = recipe.decisions[decided.rules.name].plugins
            keys = signals_of([plugin.configuration for plugin in plugins])
            if wanted := [SignalKey(*key) for key in keys if key not in found]:
                found |= self._learned(request, recipe.name, wanted)
        chosen = self._select(request, recipe, decided, seed)
        return Outcome(deciding, decided, frozenset(missing), found, *chosen)

    def _select(
        self, request: RoutedRequest, recipe: Recipe, decided: Decided, seed: str
    ) -> tuple[str, str, Reasons | None]:
        """The model, why, and how it is told to reason."""
        default = self.config.providers.defaults.model
        if decided.fails:
            names = ", ".join(map(str, decided.unknown))
            return "", f"refused: {names} unknown, and on_unknown is fail_request", None
        if decided.rules is None:
            return default, "no decision matches", None
        decision = recipe.decisions[decided.rules.name]
        if any(plugin.type == "fast_response" for plugin in decision.plugins):
            return "", "fast_response answers", None
        candidates = candidates_of(self.config, recipe, decision)
        if not candidates and default:
            return default, "the decision names no models", None
        try:
            policy = policy_of(self.config, recipe, decision)
            selected = select(request, candidates, policy, Facts(seed=seed))
        except NoModelError as error:
            return "", str(error), None
        told = f"{selected.method}: {selected.reason}"
        told += f" ({selected.fallback})" if selected.fallback else ""
        return selected.model, told, selected.candidate.reasons
