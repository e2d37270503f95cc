"""Loads a configuration: reads, migrates, expands and checks it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from flaxen.router.decisions.projections import Projections
from flaxen.router.decisions.ranking import Rules, Strategy
from flaxen.router.signals.heads import DomainRule
from flaxen.router_config.checking import (
    check_decisions,
    check_names,
    is_there,
    models_of,
    routings,
)
from flaxen.router_config.file import File
from flaxen.router_config.items import Item, expand, parse_items
from flaxen.router_config.located import Located
from flaxen.router_config.migration import migrate
from flaxen.router_config.names import Names
from flaxen.router_config.plugins import Plugin
from flaxen.router_config.problems import ConfigError, Path, Problems
from flaxen.router_config.reachable import unreachable
from flaxen.router_config.reading import Reader
from flaxen.router_config.recipe import Recipe
from flaxen.router_config.refused import REFUSED
from flaxen.router_config.router_config import DEFAULT, RouterConfig
from flaxen.router_config.routing import RecipeRouting, Signals
from flaxen.router_config.satisfying import contradictions
from flaxen.router_config.scores import make_projections
from flaxen.router_config.special import read_plugin, read_signals
from flaxen.router_config.trees import TreeMaker

_READER = Reader(REFUSED, {Signals: read_signals, Plugin: read_plugin})


def load_config(
    text: str,
    *,
    name: str = "",
    environment: Mapping[str, str] | None = None,
    served: Collection[str] | None = None,
) -> RouterConfig:
    """Loads a configuration.

    Args:
      text: YAML of v0.3, or of v0.1, which is migrated.
      name: the file's, for errors.
      environment: the variables that texts of the file may name.
      served: models that are there beside those of the file; None if that is not known.

    Raises:
      ConfigError: with all that is wrong, each with line, key and remedy.
    """
    problems = Problems()
    with problems.collecting():
        given = expand(parse_items(text), environment or {}, problems)
        item = migrate(given)
        config = _checked(_READER.read(File, item), item, served)
    if problems.found:
        raise ConfigError(problems.found, name)
    return dataclasses.replace(config, is_migrated=item != given)


def _checked(file: File, item: Item, served: Collection[str] | None) -> RouterConfig:
    problems = Located(item)
    check_names(file, served, problems)
    names = [DEFAULT, *(recipe.name for recipe in file.recipes)]
    texts = ["", *(recipe.description for recipe in file.recipes)]
    recipes = {}
    strategy = file.global_.router.strategy
    for recipe, text, (routing, path) in zip(names, texts, routings(file), strict=True):
        if recipe == DEFAULT and not is_there(routing):
            continue
        if recipe == DEFAULT and strategy and not problems.is_given((*path, "strategy")):
            routing = dataclasses.replace(routing, strategy=strategy)
        recipes[recipe] = _recipe(recipe, text, routing, path, problems)
    problems.raise_any()
    entrypoints = {name: e.recipe for e in file.entrypoints for name in e.model_names}
    if DEFAULT in recipes:
        entrypoints |= dict.fromkeys(file.global_.router.auto_names, DEFAULT)
    models = models_of(file) | set(served or ())
    return RouterConfig(
        listeners=file.listeners,
        providers=file.providers,
        evaluation=file.evaluation,
        cards={card.name: card for card in file.routing.modelCards},
        recipes=recipes,
        entrypoints={name: to for name, to in entrypoints.items() if name not in models},
        settings=file.global_,
    )


def _recipe(
    name: str, description: str, routing: RecipeRouting, path: Path, problems: Located
) -> Recipe:
    """Makes a recipe's trees and projections, and checks them."""
    at = (*path, "decisions")
    check_decisions(routing, at, problems)
    outputs = frozenset(o.name for m in routing.projections.mappings for o in m.outputs)
    names = Names(routing.signals, outputs)
    num_before = len(problems.found)
    projections = make_projections(routing.projections, names, (*path, "projections"), problems)
    make = TreeMaker(names, problems)
    rules = tuple(
        Rules(
            name=decision.name,
            priority=decision.priority,
            tier=decision.tier,
            tree=make.root(decision.rules, (*at, index, "rules")),
            on_unknown=(decision.rules.on_unknown if decision.rules else "") or "no_match",
        )
        for index, decision in enumerate(routing.decisions)
    )
    for binding in routing.model_bindings:
        kind, _, rule = binding.partition(".")
        with problems.at((*path, "model_bindings", binding)):
            names.check_rule(kind, rule)
    if len(problems.found) == num_before:
        _check_rules(rules, routing.strategy, projections, at, problems)
    domains = tuple(DomainRule(name=domain) for domain in sorted(names.domains))
    if domains:
        signals = Signals(rules={**routing.signals.rules, "domains": domains})
        routing = dataclasses.replace(routing, signals=signals)
    return Recipe(
        name=name,
        description=description,
        routing=routing,
        rules=rules,
        projections=projections,
    )


def _check_rules(
    rules: Sequence[Rules],
    strategy: Strategy,
    projections: Projections,
    path: Path,
    problems: Located,
) -> None:
    """Adds rules that contradict themselves, and decisions that can never win."""
    for index, each in enumerate(rules):
        if each.tree is None:
            continue
        for found in contradictions(each.tree, (*path, index, "rules")):
            problems.add(
                0,
                found,
                "these conditions contradict each other, so that they can never hold together: "
                "remove one of them",
            )
    for index, reason in unreachable(rules, strategy, projections).items():
        problems.add(0, (*path, index), f"this decision can never win: {reason}")
