"""What is wrong between the parts of a file: names that nothing has, and names that two have."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from flaxen.router.plugins.guards import Jailbreak, Pii
from flaxen.router.plugins.shadow import ShadowDispatch
from flaxen.router_config.decision import Decision
from flaxen.router_config.file import File
from flaxen.router_config.located import Located
from flaxen.router_config.problems import Path, Problems
from flaxen.router_config.reading import suggestion
from flaxen.router_config.reasoning import problem_of
from flaxen.router_config.router_config import DEFAULT
from flaxen.router_config.routing import RecipeRouting


def check_names(file: File, served: Collection[str] | None, problems: Located) -> None:
    """Adds what is wrong with the names of models, recipes and entrypoints.

    Args:
      served: models that are there beside the file's; None if that is not known, so that names are
        not checked in a file without models.
    """
    _unique((m.name for m in file.providers.models), ("providers", "models"), problems)
    _unique((c.name for c in file.routing.modelCards), ("routing", "modelCards"), problems)
    _unique((r.name for r in file.recipes), ("recipes",), problems)
    if is_there(file.routing) and any(recipe.name == DEFAULT for recipe in file.recipes):
        problems.add(0, ("recipes",), f"{DEFAULT!r} is the recipe of routing: rename this one")
    priced = [model.pricing.currency for model in file.providers.models if model.pricing]
    if len(set(priced)) > 1:
        text = f"prices in {' and '.join(sorted(set(priced)))} can't be compared: give one currency"
        problems.add(0, ("providers", "models"), text)
    known = models_of(file) | set(served or ())
    _check_entrypoints(file, known, problems)
    if known or served is not None:
        _check_models(file, known, problems)


def is_there(routing: RecipeRouting) -> bool:
    """Whether a recipe has anything to decide by."""
    return bool(routing.decisions or routing.signals.rules)


def models_of(file: File) -> set[str]:
    """The models that a file declares."""
    cards = file.routing.modelCards
    return {model.name for model in file.providers.models} | {card.name for card in cards}


def routings(file: File) -> list[tuple[RecipeRouting, Path]]:
    """All recipes of a file, with their paths."""
    named = [(r.routing, ("recipes", i, "routing")) for i, r in enumerate(file.recipes)]
    return [(file.routing, ("routing",)), *named]


def check_decisions(routing: RecipeRouting, path: Path, problems: Problems) -> None:
    """Adds what is wrong with a recipe's decisions beside their rules."""
    _unique((d.name for d in routing.decisions), path, problems)
    for index, decision in enumerate(routing.decisions):
        here = (*path, index)
        _unique((p.type for p in decision.plugins), (*here, "plugins"), problems)
        for number, plugin in enumerate(decision.plugins):
            if isinstance(plugin.configuration, Jailbreak | Pii):
                _check_guard(plugin.configuration, routing, (*here, "plugins", number), problems)
        least = decision.algorithm.minimum_candidates if decision.algorithm else 1
        models = {(ref.model, ref.lora_name) for ref in decision.modelRefs}
        if models and len(models) < least:
            problems.add(
                0,
                (*here, "modelRefs"),
                f"there are {len(models)} different models, and algorithm.minimum_candidates is "
                f"{least}: add models, or lower it",
            )


def _check_guard(guard: Jailbreak | Pii, routing: RecipeRouting, path: Path, to: Problems) -> None:
    kind, name = guard.signal
    names = [rule.name for rule in routing.signals.rules.get(kind, ())]
    if name not in names:
        hint = suggestion(name, names) if names else f"declare it in signals.{kind}"
        where = (*path, "configuration", "rule")
        to.add(0, where, f"there is no {kind} signal {name!r}: {hint}")


def _check_models(file: File, known: set[str], problems: Located) -> None:
    adapters = {card.name: [lora.name for lora in card.loras] for card in file.routing.modelCards}
    reasoning = {model.name: model.reasoning for model in file.providers.models}

    def check(name: str, path: Path) -> None:
        if name not in known:
            text = f"there is no model {name!r}: {suggestion(name, list(known))}"
            problems.add(0, path, text)

    if file.providers.defaults.model:
        check(file.providers.defaults.model, ("providers", "defaults", "model"))
    for routing, path in routings(file):
        for index, decision in enumerate(routing.decisions):
            here = (*path, "decisions", index)
            _check_refs(decision, adapters, check, here, problems)
            for number, ref in enumerate(decision.modelRefs):
                where = (*here, "modelRefs", number)
                says_off = problems.is_given((*where, "use_reasoning")) and not ref.use_reasoning
                if problem := problem_of(ref, reasoning.get(ref.model), says_off=says_off):
                    problems.add(0, where, problem)
            for number, plugin in enumerate(decision.plugins):
                settings = plugin.configuration
                is_shadow = isinstance(settings, ShadowDispatch) and settings.enabled
                if is_shadow or (isinstance(settings, Jailbreak | Pii) and settings.model):
                    check(settings.model, (*here, "plugins", number, "configuration", "model"))


def _check_refs(
    decision: Decision,
    adapters: dict[str, list[str]],
    check: Callable[[str, Path], None],
    path: Path,
    problems: Problems,
) -> None:
    for number, ref in enumerate(decision.modelRefs):
        where = (*path, "modelRefs", number)
        check(ref.model, (*where, "model"))
        loras = adapters.get(ref.model, [])
        if ref.lora_name and ref.lora_name not in loras:
            problems.add(
                0,
                (*where, "lora_name"),
                f"{ref.lora_name!r} is no adapter of {ref.model} by its card in routing.modelCards:"
                f" {suggestion(ref.lora_name, loras) if loras else 'declare it in loras'}",
            )


def _check_entrypoints(file: File, models: set[str], problems: Problems) -> None:
    recipes = {recipe.name for recipe in file.recipes}
    if is_there(file.routing):
        recipes.add(DEFAULT)
    loras = {lora.name for card in file.routing.modelCards for lora in card.loras}
    taken = dict.fromkeys(models, "a model") | dict.fromkeys(loras, "an adapter")
    taken |= dict.fromkeys(file.global_.router.auto_names, "a name of the default recipe")
    for index, entrypoint in enumerate(file.entrypoints):
        path: Path = ("entrypoints", index)
        if entrypoint.recipe not in recipes:
            hint = suggestion(entrypoint.recipe, sorted(recipes))
            problems.add(0, (*path, "recipe"), f"there is no recipe {entrypoint.recipe!r}: {hint}")
        for name in entrypoint.model_names:
            if name in taken:
                problems.add(0, path, f"{name!r} is {taken[name]} too: give it another name")
            taken[name] = "another entrypoint"


def _unique(names: Iterable[str], path: Path, problems: Problems) -> None:
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            problems.add(0, (*path, index), f"{name!r} is there twice: rename or remove one")
        seen.add(name)
