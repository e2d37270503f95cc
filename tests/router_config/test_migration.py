"""Files of v0.1 and older become the same configuration as their v0.3."""

from __future__ import annotations

import dataclasses

import pytest

from flaxen.router_config.load import load_config
from flaxen.router_config.problems import ConfigError

NEW = """\
version: v0.3
listeners: [{name: http, address: 0.0.0.0, port: 8801}]
providers:
  defaults: {model: small, reasoning_effort: high}
  models:
    - name: small
      backend_refs: [{name: primary, endpoint: "a:8000", protocol: http, weight: 2, api_key: k}]
      pricing: {prompt_per_1m: 0.5}
      reasoning: {type: chat_template_kwargs, parameter: thinking}
    - name: large
      backend_refs: [{name: b, endpoint: "b:8000", weight: 1}]
      provider_model_id: org/large
      reasoning: {family: gpt}
evaluation:
  records:
    - model: large
      benchmark: vllm-sr/operator-rating@1.0.0
      metrics: {score: 0.9}
routing:
  modelCards:
    - {name: small, param_size: 7b, loras: [{name: legal}]}
    - {name: large, description: Large.}
  signals:
    keywords: [{name: urgent, operator: OR, keywords: [urgent]}]
    domains: [{name: law, mmlu_categories: [law]}]
  decisions:
    - name: law
      priority: 10
      rules: {operator: AND, conditions: [{type: domain, name: law}]}
      modelRefs: [{model: large, use_reasoning: true}]
      plugins: [{type: response_cache, configuration: {similarity_threshold: 0.9}}]
global:
  router: {strategy: confidence, auto_model_name: any}
  stores: {response_cache: {max_entries: 5}}
  services: {router_replay: {enabled: true}}
  model_catalog:
    embeddings: {semantic: {embedding_config: {min_score_threshold: 0.6}}}
    modules:
      classifier: {domain: {threshold: 0.4}}
      prompt_guard: {threshold: 0.8}
"""
V01 = """\
version: v0.1
listeners: [{name: http, address: 0.0.0.0, port: 8801}]
signals:
  keywords: [{name: urgent, operator: OR, keywords: [urgent]}]
  domains: [{name: law, mmlu_categories: [law]}]
decisions:
  - name: law
    priority: 10
    rules: {operator: AND, conditions: [{type: domain, name: law}]}
    modelRefs: [{model: large, use_reasoning: true}]
    plugins: [{type: semantic-cache, configuration: {similarity_threshold: 0.9}}]
providers:
  default_model: small
  default_reasoning_effort: high
  reasoning_families: {qwen: {type: chat_template_kwargs, parameter: thinking}}
  models:
    - name: small
      param_size: 7b
      loras: [{name: legal}]
      reasoning_family: qwen
      access_key: k
      pricing: {prompt_per_1m: 0.5}
      endpoints: [{name: primary, endpoint: "a:8000", protocol: http, weight: 2}]
    - name: large
      description: Large.
      quality_score: 0.9
      reasoning_family: gpt
      provider_model_id: org/large
      endpoints: [{name: b, endpoint: "b:8000", weight: 1}]
strategy: confidence
auto_model_name: any
semantic_cache: {max_entries: 5}
router_replay: {enabled: true}
bert_model: {threshold: 0.6}
classifier: {category_model: {threshold: 0.4}}
prompt_guard: {threshold: 0.8}
tools: {}
"""
FLAT = """\
listeners: [{name: http, address: 0.0.0.0, port: 8801}]
keyword_rules: [{name: urgent, operator: OR, keywords: [urgent]}]
categories: [{name: law, mmlu_categories: [law]}]
decisions:
  - name: law
    priority: 10
    rules: {operator: AND, conditions: [{type: domain, name: law}]}
    modelRefs: [{model: large, use_reasoning: true}]
    plugins: [{type: semantic-cache, configuration: {similarity_threshold: 0.9}}]
default_model: small
default_reasoning_effort: high
reasoning_families: {qwen: {type: chat_template_kwargs, parameter: thinking}}
provider_profiles: {p: {api_key: k, protocol: http}}
vllm_endpoints:
  - {name: primary, address: a, port: 8000, weight: 2, provider_profile: p}
  - {name: b, address: b, port: 8000, weight: 1}
model_config:
  small:
    preferred_endpoints: [primary]
    param_size: 7b
    loras: [{name: legal}]
    reasoning_family: qwen
    pricing: {prompt_per_1m: 0.5}
  large:
    preferred_endpoints: [b]
    description: Large.
    quality_score: 0.9
    reasoning_family: gpt
    model_id: org/large
strategy: confidence
auto_model_name: any
semantic_cache: {max_entries: 5}
router_replay: {enabled: true}
bert_model: {threshold: 0.6}
classifier: {category_model: {threshold: 0.4}}
prompt_guard: {threshold: 0.8}
"""


@pytest.mark.parametrize("old", [V01, FLAT])
def test_an_old_file_is_the_same_configuration(old: str) -> None:
    new = load_config(NEW)
    migrated = load_config(old)
    assert migrated.is_migrated
    assert not new.is_migrated
    assert dataclasses.replace(migrated, is_migrated=False) == new
    assert new.recipes["default"].routing.strategy == "confidence"
    assert new.entrypoints == dict.fromkeys(("vllm-sr/auto", "auto", "any"), "default")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("semantic_router: {x: 1}", "line 30: semantic_router: this key of an older version has"),
        (
            "looper: {endpoint: a}",
            "line 30: global.integrations.looper: not supported: one",
        ),
        ("hallucination_mitigation: {x: 1}", "line 30: hallucination_mitigation.x: this key of an"),
        (
            "response_cache: {ttl_seconds: 1}",
            "line 33: response_cache: its place in v0.3 is taken by line 30",
        ),
        ("pii: [{name: p, treshold: 1}]", "line 30: routing.signals.pii[0].treshold: unknown key"),
    ],
)
def test_what_has_no_place_is_refused_by_its_line(line: str, expected: str) -> None:
    text = V01.replace("strategy: confidence\n", f"{line}\nstrategy: confidence\n")
    with pytest.raises(ConfigError) as caught:
        load_config(text)
    assert expected in str(caught.value)


def test_servers_that_nobody_declared() -> None:
    text = "decisions: []\nmodel_config:\n  m:\n    preferred_endpoints: [x]\n"
    with pytest.raises(ConfigError, match=r"line 4: model_config\.m: there is no endpoint 'x'"):
        load_config(text)


def test_the_first_files_of_v03_named_models_as_older_ones_do() -> None:
    head, tail = NEW.split("providers:\n")
    first = """\
providers:
  defaults:
    default_model: small
    default_reasoning_effort: high
    reasoning_families: {qwen: {type: chat_template_kwargs, parameter: thinking}}
  models:
    - name: small
      reasoning_family: qwen
      backend_refs: [{name: primary, endpoint: "a:8000", protocol: http, weight: 2, api_key: k}]
      pricing: {prompt_per_1m: 0.5}
    - name: large
      backend_refs: [{name: b, endpoint: "b:8000", weight: 1}]
      provider_model_id: org/large
      reasoning_family: gpt
      description: Large.
"""
    routing = tail[tail.index("routing:") :].replace(
        "{name: large, description: Large.}", "{name: large, quality_score: 0.9}"
    )
    migrated = load_config(head + first + routing)
    assert migrated.is_migrated
    assert dataclasses.replace(migrated, is_migrated=False) == load_config(NEW)
