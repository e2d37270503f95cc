"""The candidates of a decision, and its policy, from what the file says of its models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from flaxen.router.selection.algorithms import Algorithm
from flaxen.router.selection.candidate import Candidate, Prices
from flaxen.router.selection.cascade import read_size
from flaxen.router.selection.selecting import Policy
from flaxen.router.selection.sticking import Stickiness
from flaxen.router.signals.settings import CountTokens
from flaxen.router_config.decision import Decision, ModelRef
from flaxen.router_config.models import Evaluation, Index, ModelCard, Pricing, ProviderModel
from flaxen.router_config.reasoning import reasons_of
from flaxen.router_config.recipe import Recipe
from flaxen.router_config.router_config import RouterConfig

_NO_CARD = ModelCard(name="-")


def candidates_of(
    config: RouterConfig,
    recipe: Recipe,
    decision: Decision,
    counters: Mapping[str, CountTokens] | None = None,
) -> tuple[Candidate, ...]:
    """A decision's candidates, in the order of its modelRefs.

    Args:
      counters: how models count tokens, by the model's name.
    """
    counters = counters or {}
    scores = {
        each.model: each.score
        for domain in recipe.routing.signals.rules.get("domains", ())
        if domain.name == decision.name  # as in the reference: the domain called like the decision
        for each in domain.model_scores
    }
    found: list[Candidate] = []
    for ref in decision.modelRefs:
        candidate = _candidate(config, ref)
        taken = [each.name for each in found if each.model == candidate.model]
        found.append(
            replace(
                candidate,
                name=f"{candidate.name}#{len(taken) + 1}" if taken else candidate.name,
                score=scores.get(ref.model, 1.0),
                count_tokens=counters.get(ref.model),
            )
        )
    return tuple(found)


def policy_of(config: RouterConfig, recipe: Recipe, decision: Decision) -> Policy:
    """How a decision chooses among its candidates."""
    learning = config.settings.router.learning
    tuning, own = learning.protection.tuning, decision.adaptations.protection
    margin, weight = own.switch_margin, own.stability_weight
    return Policy(
        algorithm=decision.algorithm or Algorithm(),
        requirements=recipe.routing.candidate_requirements,
        stickiness=Stickiness(
            mode=own.mode or decision.adaptations.mode or "apply",
            is_priced=learning.enabled and learning.protection.enabled,
            scope=learning.protection.scope or "conversation",
            keeps_current=any(each.retention.keep_current_model for each in decision.emits),
            idle_timeout_s=tuning.idle_timeout_seconds,
            min_turns=tuning.min_turns_before_switch,
            switch_margin=tuning.switch_margin if margin is None else margin,
            stability_weight=tuning.stability_weight if weight is None else weight,
        ),
    )


def _candidate(config: RouterConfig, ref: ModelRef) -> Candidate:
    card = config.cards.get(ref.model, _NO_CARD)
    models = (each for each in config.providers.models if each.name == ref.model)
    provider = next(models, ProviderModel(name=ref.model))
    pricing = provider.pricing
    effort = ref.reasoning_effort or config.providers.defaults.reasoning_effort
    return Candidate(
        name=ref.lora_name or ref.model,
        model=ref.lora_name or ref.model,
        weight=ref.weight,
        size=read_size(card.param_size),
        prices=_prices(pricing) if pricing else None,
        quality={
            index.id: value
            for index in config.evaluation.indices
            if (value := quality_of(config.evaluation, index, ref.model, effort)) is not None
        },
        modalities=frozenset(card.modalities.input),
        capabilities=frozenset(card.capabilities),
        context_window=card.context_window_size,
        max_output_tokens=card.max_output_tokens,
        api=provider.api,
        reasons=reasons_of(ref, provider.reasoning, config.providers.defaults.reasoning_effort),
    )


def _prices(pricing: Pricing) -> Prices:
    return Prices(
        prompt=pricing.prompt_per_1m,
        completion=pricing.completion_per_1m,
        cached=pricing.cached_input_per_1m,
        written=pricing.cache_write_per_1m,
    )


def quality_of(evaluation: Evaluation, index: Index, model: str, effort: str) -> float | None:
    """A model's value of an index: the weighted mean of its metrics; None if one is missing.

    A record of the effort comes before one of no effort, and of equals the last of the file.
    """
    total = weights = 0.0
    for component in index.components:
        values = {
            record.reasoning_effort: record.metrics[component.metric]
            for record in evaluation.records
            if record.model == model
            and record.benchmark == component.benchmark
            and record.benchmark_profile == component.benchmark_profile
            and component.metric in record.metrics
        }
        value = values.get(effort, values.get(""))
        if value is None:
            return None
        total += component.weight * value
        weights += component.weight
    return total / weights
