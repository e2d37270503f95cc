"""Deciding: from a request to the decision that wins, with the models that may answer it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from flaxen.router.decisions.deciding import Decided, Deciding
from flaxen.router.decisions.tree import SignalKey
from flaxen.router.plugins.preparing import signals_of
from flaxen.router.request import RoutedRequest
from flaxen.router.selection.candidate import Candidate, Facts
from flaxen.router.selection.neighbours import Examples, Vector
from flaxen.router.selection.selected import Selected
from flaxen.router.selection.selecting import SESSION, Policy, select
from flaxen.router.selection.sticking import Session
from flaxen.router.signals.authz import missing_identity
from flaxen.router.signals.finding import FreeSignals
from flaxen.router.signals.found import Found, unknown
from flaxen.router.signals.kinds import KINDS
from flaxen.router.signals.settings import Identity, ModalityDetector, SignalSettings
from flaxen.router_config.candidates import candidates_of, policy_of
from flaxen.router_config.decision import Decision, ModelRef
from flaxen.router_config.fallback import Fallback
from flaxen.router_config.recipe import Recipe
from flaxen.router_config.router_config import RouterConfig
from flaxen.routing.upstream import later
from flaxen.server.errors import ApiError

logger = logging.getLogger("flaxen.router")

_LEARNED_S = 10.0  # the longest that learned signals take; then they are unknown
_NO_DECISION = Decision(name="-")


class LearnedSignals(Protocol):
    """The signals of a recipe that a model finds.

    Attributes:
      examples: what its requests are compared to by knn; None if nothing is.
    """

    examples: Examples | None

    async def find(
        self, request: RoutedRequest, wanted: Sequence[tuple[str, str]]
    ) -> Mapping[SignalKey, Found]:
        """What the wanted signals found in a request; one that failed is unknown, or left out."""

    async def vector(self, text: str) -> Vector:
        """The embedding of a text, [dimensions], of length 1; raises whatever went wrong."""


class LearnedOfFile(Protocol):
    """Makes what finds the learned signals of configurations."""

    async def of(self, config: RouterConfig) -> Mapping[str, LearnedSignals]:
        """By the names of the recipes that have such signals; raises OSError and ValueError where
        they can't be found."""

    def close(self) -> None:
        """Ends what it opened."""


class NoLearned:
    """Finds no learned signals, so that a configuration with some is refused."""

    async def of(self, config: RouterConfig) -> dict[str, LearnedSignals]:
        """None."""
        return {}

    def close(self) -> None:
        """Does nothing."""


# Finds the free signals of a request, on a thread where that would keep others waiting.
Compute = Callable[[RoutedRequest, Callable[[], Any]], Awaitable[Any]]


@dataclass(frozen=True, kw_only=True)
class Routed:
    """A request whose decision is made.

    Attributes:
      decision: the one that won; None if none matched, so that the default model answers.
      candidates, policy, fallback: who may answer, how one is chosen, what happens when it fails.
      found: what signals found, those that the decision's plugins act on too.
      evaluation: for explanations.
      decide_s: the seconds that deciding took.
      session: the conversation that it continues, if that is known.
      query: the embedding of the user's last text, where an algorithm compares it to examples.
    """

    request: RoutedRequest
    recipe: Recipe
    decided: Decided
    decision: Decision | None
    candidates: tuple[Candidate, ...]
    policy: Policy
    fallback: Fallback
    found: Mapping[SignalKey, Found]
    evaluation: Deciding
    decide_s: float
    session: Session | None = None
    query: Vector | None = None
    examples: Examples | None = None

    @property
    def name(self) -> str:
        """The decision's name, behind that of its recipe where that is not the default; "" for
        none."""
        if self.decision is None:
            return ""
        recipe = "" if self.recipe.name == "default" else f"{self.recipe.name}::"
        return recipe + self.decision.name

    @property
    def unclassified(self) -> dict[str, bool]:
        """Why the request may be classified wrongly or not at all: each reason, and whether it is
        so."""
        return {
            "no_decision": self.decision is None,
            "unknown_signals": any(found.matched is None for found in self.found.values()),
            "unread_content": bool(self.request.unread),
        }

    @property
    def error(self) -> ApiError | None:
        """Why the request fails: a signal is unknown without which the configuration says so."""
        if not self.decided.fails:
            return None
        named = ", ".join(map(str, self.decided.unknown))
        told = f"these signals are unknown, and on_unknown is fail_request: {named}"
        return later(503, told, "decision_unresolved", "api_error")

    def rerouted(self, model: str) -> Routed:
        """The same, for one model, which a plugin says must answer."""
        candidate = Candidate(name=model, model=model)
        return replace(self, candidates=(candidate,), policy=Policy(), session=None)

    def select(self, facts: Facts, failed: Mapping[str, str] | None = None) -> Selected:
        """Selects a model, as `select` of the router says."""
        selected = select(
            self.request, self.candidates, self.policy, facts, session=self.session, failed=failed
        )
        is_default = self.decision is None or not self.decision.modelRefs
        is_default = is_default and selected.method != SESSION
        return replace(selected, method="default") if is_default else selected


class RecipeDecider:
    """Decides the requests of one recipe; its expressions are compiled once.

    Args:
      learned: finds the signals that need a model; None if no decision reads one.

    Attributes:
      recipe: its recipe.
      identity: the headers that say who asks.

    Raises:
      ValueError: a rule can't be compiled, or its library is not installed.
    """

    def __init__(
        self, config: RouterConfig, recipe: Recipe, learned: LearnedSignals | None = None
    ) -> None:
        self.recipe, self._learned = recipe, learned
        settings = signal_settings(config)
        self.identity = settings.identity
        self._signals = FreeSignals(used_rules(recipe), settings)
        self._fallback = recipe.routing.fallback or config.settings.router.fallback or Fallback()
        self._checks_identity = any(key.kind == "authz" for key in recipe.used)
        # Beside the decisions: what answers where none matched.
        self._choices = {
            decision.name: _choices(config, recipe, decision)
            for decision in (_NO_DECISION, *recipe.routing.decisions)
        }

    async def decide(self, request: RoutedRequest, compute: Compute) -> Routed:
        """Decides a request.

        Args:
          compute: runs what takes the processor.

        Raises:
          ApiError: 403, nobody knows who asks.
        """
        begin_s = time.perf_counter()
        if self._checks_identity and (problem := missing_identity(request, self.identity)):
            raise ApiError(403, problem, code="missing_identity", type="permission_error")
        find = self._signals.of(request)
        evaluation = Deciding(
            self.recipe.rules,
            lambda key: find(*key),
            self.recipe.routing.strategy,
            self.recipe.projections,
        )
        while missing := await compute(request, evaluation.advance):
            evaluation.give(await self._find_learned(request, sorted(missing)))
        decided = evaluation.decided()
        decision = self.recipe.decisions[decided.rules.name] if decided.rules else None
        candidates, policy = self._choices[(decision or _NO_DECISION).name]
        found = evaluation.known.found
        plugins = () if decision is None else (each.configuration for each in decision.plugins)
        compares = policy.algorithm.type == "knn" and len(candidates) > 1
        wanted = [SignalKey(*key) for key in signals_of(plugins) if key not in found]
        return Routed(
            request=request,
            recipe=self.recipe,
            decided=decided,
            decision=decision,
            candidates=candidates,
            policy=policy,
            fallback=self._fallback,
            found={**found, **(await self._find_learned(request, wanted) if wanted else {})},
            evaluation=evaluation,
            query=await self.vector(request.current_user) if compares else None,
            examples=self._learned.examples if compares and self._learned else None,
            decide_s=time.perf_counter() - begin_s,
        )

    async def vector(self, text: str) -> Vector | None:
        """The embedding of a text; None if it can't be computed, or not in time."""
        try:
            if self._learned is not None:
                async with asyncio.timeout(_LEARNED_S):
                    return await self._learned.vector(text)
        except Exception as error:  # whatever a model's library raises
            logger.warning("a request is not compared to others: %r", error)
        return None

    async def _find_learned(
        self, request: RoutedRequest, wanted: Sequence[SignalKey]
    ) -> dict[SignalKey, Found]:
        """What models found; whatever goes wrong there makes its signals unknown."""
        found: Mapping[SignalKey, Found] = {}
        why = "no model found it"
        try:
            if self._learned is not None:
                async with asyncio.timeout(_LEARNED_S):
                    found = await self._learned.find(request, wanted)
        except TimeoutError:
            why = f"its model took longer than {_LEARNED_S:g} s"
        except Exception as error:  # whatever a model's library raises
            why = f"its model failed: {error!r}"
        return {key: found.get(key) or unknown(why) for key in wanted}


def _choices(
    config: RouterConfig, recipe: Recipe, decision: Decision
) -> tuple[tuple[Candidate, ...], Policy]:
    """The models of a decision; one that names none has the default model."""
    default = config.providers.defaults.model
    is_default = bool(default) and not decision.modelRefs
    if is_default:
        decision = replace(decision, modelRefs=(ModelRef(model=default),), algorithm=None)
    candidates = candidates_of(config, recipe, decision)
    if is_default:  # nothing says how it reasons
        candidates = tuple(replace(each, reasons=None) for each in candidates)
    return candidates, policy_of(config, recipe, decision)


def signal_settings(config: RouterConfig) -> SignalSettings:
    """What the signals of a configuration share."""
    authz, modules = config.settings.services.authz, config.settings.model_catalog.modules
    found = modules.modality_detector
    return SignalSettings(
        identity=Identity(fail_open=authz.fail_open, **vars(authz.identity)),
        modality=ModalityDetector(
            method=found.method, keywords=found.keywords, both_keywords=found.both_keywords
        ),
    )


def used_rules(recipe: Recipe) -> dict[str, tuple[Any, ...]]:
    """The rules that decisions read, by their collections."""
    used = recipe.used | {SignalKey(key.kind, key.name.partition(":")[0]) for key in recipe.used}
    return {
        kind.collection: tuple(
            rule
            for rule in recipe.routing.signals.rules.get(kind.collection, ())
            if (kind.condition, getattr(rule, kind.named_by)) in used
        )
        for kind in KINDS
    }
