"""Recipe: a recipe of the file, with its rules as trees."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flaxen.router.decisions.projections import Projections
from flaxen.router.decisions.ranking import Rules
from flaxen.router.decisions.tree import SignalKey, leaves
from flaxen.router.plugins.cache_settings import ResponseCache
from flaxen.router.plugins.preparing import signals_of
from flaxen.router_config.decision import Decision
from flaxen.router_config.routing import RecipeRouting


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What requests for one entrypoint are decided by.

    Attributes:
      routing: what the file says, with the domains that were not declared.
      rules: of its decisions, in their order.
    """

    name: str
    description: str
    routing: RecipeRouting
    rules: tuple[Rules, ...]
    projections: Projections

    @cached_property
    def decisions(self) -> dict[str, Decision]:
        """The decisions by name."""
        return {decision.name: decision for decision in self.routing.decisions}

    @cached_property
    def used(self) -> frozenset[SignalKey]:
        """The signals that decisions read, also through projections, and that plugins act on."""
        guards = [SignalKey(*signal) for signal in signals_of(self._plugins)]
        return frozenset(guards) | frozenset(
            key
            for rules in self.rules
            if rules.tree is not None
            for leaf in leaves(rules.tree)
            for key in self.projections.inputs_of(leaf.key)
        )

    @property
    def compares(self) -> bool:
        """Whether requests are compared by embeddings, beside what signals do."""
        caches = (each for each in self._plugins if isinstance(each, ResponseCache))
        return self.has_neighbours or any(each.compares for each in caches)

    @property
    def has_neighbours(self) -> bool:
        """Whether a decision chooses by requests that are alike."""
        kinds = (each.algorithm and each.algorithm.type for each in self.routing.decisions)
        return "knn" in kinds

    @property
    def _plugins(self) -> list[Any]:
        """The settings of all decisions' plugins."""
        return [each.configuration for some in self.routing.decisions for each in some.plugins]
