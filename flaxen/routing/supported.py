"""What a configuration asks for that can't be served here: refused at the start, never dropped."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from flaxen.router.plugins.guards import Jailbreak, Pii
from flaxen.router.plugins.shadow import ShadowDispatch
from flaxen.router.selection.algorithms import SEVERAL_MODELS
from flaxen.router.signals.kinds import KINDS, Cost
from flaxen.router_config.decision import Decision
from flaxen.router_config.router_config import RouterConfig

_LEARNED = {kind.condition for kind in KINDS if kind.cost is Cost.LEARNED}


def check_supported(
    config: RouterConfig, served: Collection[str], learned: Collection[str]
) -> None:
    """Refuses what can't be served.

    Args:
      served: the models of this process.
      learned: the recipes whose signals a model can find.

    Raises:
      ValueError: with a sentence for each thing.
    """
    problems = list(_problems(config, served, learned))
    if problems:
        raise ValueError("this configuration can't be served:\n" + "\n".join(problems))


def _problems(
    config: RouterConfig, served: Collection[str], learned: Collection[str]
) -> Iterator[str]:
    if not config.entrypoints:
        yield "no name is decided: add entrypoints, or decisions to routing, for the name auto"
    settings = config.settings
    keys = [key for listener in config.listeners for key in listener.api_keys]
    if served and keys:
        yield "api_keys of listeners are for flaxen route; flaxen serve has --api-key: remove them"
    if len(config.listeners) > 1:
        yield f"there are {len(config.listeners)} listeners, and there may be one"
    there = {model.name for model in config.providers.models if model.backend_refs} | {*served}
    named = {config.providers.defaults.model}
    detector = settings.model_catalog.modules.modality_detector
    for name in sorted({*config.entrypoints.values()}):
        recipe = config.recipes[name]
        for key in sorted(recipe.used):
            is_modality = key.kind == "modality" and detector.method != "keyword"
            remedy = (
                "write method: keyword" if is_modality else "remove the conditions that name it"
            )
            if is_modality or (key.kind in _LEARNED and name not in learned):
                yield (
                    f"the recipe {name} reads {key}, which needs a model for signals, and there is "
                    f"none here: {remedy}"
                )
        if recipe.compares and name not in learned:
            yield (
                f"the recipe {name} compares requests by embeddings, which need a model for "
                "signals, and there is none here: write mode: exact in its response_cache, and "
                "another algorithm than knn"
            )
        if recipe.has_neighbours and not settings.router.model_selection.ml.knn.pretrained_path:
            yield (
                f"the recipe {name} has the algorithm knn, which compares requests to answered "
                "ones: name their file in global.router.model_selection.ml.knn.pretrained_path"
            )
        for decision in recipe.routing.decisions:
            where = f"the decision {decision.name} of the recipe {name}"
            yield from (f"{where} {problem}" for problem in _of_decision(config, decision))
            named |= {ref.model for ref in decision.modelRefs}
            # Those of reroutes and of shadows.
            others = [each.configuration for each in decision.plugins]
            named |= {each.model for each in others if isinstance(each, Jailbreak | Pii)}
            named |= {e.model for e in others if isinstance(e, ShadowDispatch) and e.enabled}
    for name in sorted(named - there - {""}):
        yield f"the model {name} is not served in this process, and has no backend_refs"


def _of_decision(config: RouterConfig, decision: Decision) -> Iterator[str]:
    kind = decision.algorithm.type if decision.algorithm else "static"
    if kind in SEVERAL_MODELS:
        yield f"has the algorithm {kind}: it joins the answers of several models"
    plugins = {plugin.type: plugin.configuration for plugin in decision.plugins}
    shadow = plugins.get("shadow_dispatch")
    if shadow and shadow.enabled and shadow.capture_response_body:
        yield "has shadow_dispatch with capture_response_body, and answers are not kept: remove it"
    if (replay := plugins.get("router_replay")) and replay.capture_response_body:
        yield "has router_replay with capture_response_body, and the log has no answers: remove it"
    has_model = decision.modelRefs or config.providers.defaults.model
    if not has_model and "fast_response" not in plugins:
        yield "names no model, and there is no providers.defaults.model: add modelRefs"
