"""A decision's candidates and policy are what the file says of its models."""

from __future__ import annotations

import pytest

from flaxen.router.selection.candidate import Candidate, Facts, Prices
from flaxen.router.selection.selecting import Policy, select
from flaxen.router.selection.sticking import Stickiness
from flaxen.router_config.candidates import candidates_of, policy_of
from flaxen.router_config.load import load_config
from flaxen.router_config.problems import ConfigError
from tests.router.selection.making import ASKED

TEXT = """
version: v0.3
providers:
  defaults: {reasoning_effort: low}
  models:
    - name: large
      pricing: {prompt_per_1m: 3, completion_per_1m: 9, cached_input_per_1m: 1}
    - name: small
evaluation:
  indices:
    - id: skill
      components:
        - {benchmark: math, metric: accuracy, weight: 3}
        - {benchmark: code, metric: passed}
  records:
    - {model: large, benchmark: math, metrics: {accuracy: 10}}
    - {model: large, benchmark: math, reasoning_effort: low, metrics: {accuracy: 80}}
    - {model: large, benchmark: math, reasoning_effort: high, metrics: {accuracy: 90}}
    - {model: large, benchmark: code, metrics: {passed: 40}}
    - {model: small, benchmark: math, metrics: {accuracy: 50}}
routing:
  candidate_requirements: {capabilities: declared}
  modelCards:
    - name: large
      context_window_size: 1000
      max_output_tokens: 100
      capabilities: [tools]
      modalities: {input: [text, image]}
      param_size: 70B
      loras: [{name: lawyer}]
  signals:
    domains:
      - {name: law, model_scores: [{model: small, score: 2}]}
      - {name: other, model_scores: [{model: large, score: 3}]}
  decisions:
    - name: law
      rules: {type: domain, name: law}
      modelRefs:
        - {model: small, weight: 2}
        - {model: large}
        - {model: large, reasoning_effort: high}
        - {model: large, lora_name: lawyer}
      algorithm: {type: weighted, on_error: fail}
      adaptations: {protection: {mode: observe, switch_margin: 0.5}}
      emits: [{kind: retention, retention: {keep_current_model: true}}]
global:
  router:
    learning:
      enabled: true
      protection: {enabled: true, scope: session, tuning: {idle_timeout_seconds: 60}}
"""


def _read(text: str = TEXT) -> tuple[tuple[Candidate, ...], Policy]:
    config = load_config(text)
    recipe = config.recipes["default"]
    decision = recipe.decisions["law"]
    found = candidates_of(config, recipe, decision, {"small": len})
    return found, policy_of(config, recipe, decision)


def test_candidates_are_what_the_file_says() -> None:
    small, large, high, lawyer = _read()[0]
    assert small == Candidate(name="small", model="small", weight=2, score=2.0, count_tokens=len)
    assert large == Candidate(
        name="large",
        model="large",
        size=70.0,
        prices=Prices(prompt=3, completion=9, cached=1),
        quality={"skill": (3 * 80 + 40) / 4},
        modalities=frozenset({"text", "image"}),
        capabilities=frozenset({"tools"}),
        context_window=1_000,
        max_output_tokens=100,
    )
    assert (high.name, high.model) == ("large#2", "large")
    assert high.quality == {"skill": (3 * 90 + 40) / 4}
    assert (lawyer.name, lawyer.model, lawyer.context_window) == ("lawyer", "lawyer", 1_000)


def test_a_policy_is_the_decisions_own_before_that_of_all() -> None:
    _, policy = _read()
    assert (policy.algorithm.type, policy.requirements.capabilities) == ("weighted", "declared")
    assert policy.stickiness == Stickiness(
        mode="observe",
        is_priced=True,
        scope="session",
        keeps_current=True,
        idle_timeout_s=60,
        switch_margin=0.5,
    )


def test_a_file_selects() -> None:
    candidates, policy = _read()
    drawn = {
        select(ASKED, candidates, policy, Facts(seed=str(seed))).candidate.name
        for seed in range(50)
    }
    assert drawn == {each.name for each in candidates}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "- name: small\nevaluation",
            "- {name: small, pricing: {currency: EUR}}\nevaluation",
            "prices in EUR and USD can't be compared: give one currency",
        ),
        ("on_error: fail", "on_error: perhaps", "on_error"),
        (
            "{type: weighted, on_error: fail}",
            "{type: confidence, confidence: {escalation_order: cost}}",
            "avg_logprob needs a threshold",
        ),
    ],
)
def test_what_cannot_be_selected_by_is_refused(old: str, new: str, told: str) -> None:
    assert old in TEXT
    with pytest.raises(ConfigError, match=told):
        _read(TEXT.replace(old, new))


def test_the_cached_prefix_is_a_factor() -> None:
    block = "{type: multi_factor, multi_factor: {weights: {cached_prefix: 1}}}"
    _, policy = _read(TEXT.replace("{type: weighted, on_error: fail}", block))
    assert policy.algorithm.multi_factor is not None
    assert policy.algorithm.multi_factor.weights is not None
    assert policy.algorithm.multi_factor.weights.cached_prefix == 1
