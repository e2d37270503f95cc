"""What is refused, with its line, its key, what is wrong, and what to do."""

from __future__ import annotations

import textwrap

import pytest

from flaxen.router_config.load import load_config
from flaxen.router_config.problems import ConfigError

START = """\
version: v0.3
providers:
  models: [{name: small}, {name: large}]
routing:
  modelCards: [{name: large, loras: [{name: legal}]}]
  signals:
    keywords:
      - {name: urgent, operator: OR, keywords: [urgent]}
      - {name: loud, operator: OR, keywords: ["!"]}
    complexity: [{name: c, hard: {candidates: [a]}, easy: {candidates: [b]}}]
    classifiers: [{name: own, type: local, labels: [x, y]}]
"""  # 11 lines


def problems(text: str, **arguments: object) -> list[tuple[int, str, str]]:
    """The lines, keys and texts of what is wrong."""
    with pytest.raises(ConfigError) as caught:
        load_config(text, **arguments)  # type: ignore[arg-type]
    return [(p.line, p.path, p.text) for p in caught.value.problems]


def below_start(text: str) -> str:
    return START + textwrap.indent(textwrap.dedent(text), "  ")


def one(text: str) -> tuple[int, str, str]:
    [found] = problems(text)
    return found


def decision(rules: str, *others: str) -> str:
    """A file whose first decision has these rules, in line 14."""
    lines = ["decisions:", "  - name: d", f"    rules: {rules}", *others]
    return below_start("\n".join(lines))


def test_all_problems_are_found_at_once_in_the_order_of_lines() -> None:
    text = "version: v0.3\nlisteners: [{port: 0}]\nroutin: {}\nproviders: {defaults: {mode: a}}\n"
    assert problems(text) == [
        (2, "listeners[0]", "port must be from 1 to 65535, got 0"),
        (3, "routin", "unknown key: did you mean routing?"),
        (4, "providers.defaults.mode", "unknown key: did you mean model?"),
    ]
    with pytest.raises(ConfigError, match=r"^router\.yaml, line 2: listeners\[0\]: port must"):
        load_config(text, name="router.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("version: v0.3\n\tx: 1", (2, "", "this is no YAML")),
        ("version: v0.3\nversion: v0.3", (2, "version", "the key stands twice, first in line 1")),
        ("version: v0.4", (1, "version", "must be one of v0.3, got the text 'v0.4'")),
        ("listeners: []", (1, "", "version is missing: give it")),
        ("version: v0.3\nlisteners: {port: 1}", (2, "listeners", "must be a list, got a mapping")),
        (
            "version: v0.3\nlisteners: [{port: '8000'}]",
            (2, "listeners[0].port", "must be a whole number, got the text '8000' in quotes"),
        ),
        (
            "version: v0.3\nglobal: {router: {clear_route_cache: maybe}}",
            (2, "global.router.clear_route_cache", "must be true or false, got the text 'maybe'"),
        ),
        (
            "version: v0.3\nlisteners: [{port: 1, timeout: soon}]",
            (2, "listeners[0]", "timeout must be a duration such as 300s"),
        ),
        ("version: v0.3\nrouting: &a {decisions: [*a]}", (2, "routing.decisions[0]", "contains")),
    ],
)
def test_values_of_the_wrong_form(text: str, expected: tuple[int, str, str]) -> None:
    line, path, words = one(text)
    assert (line, path) == expected[:2]
    assert expected[2] in words


@pytest.mark.parametrize(
    ("rules", "path", "words"),
    [
        ("{type: keyword, name: urgnt}", "", "'urgnt' is no keyword: did you mean urgent?"),
        ("{type: keywrd, name: urgent}", "", "unknown type of condition 'keywrd': did you mean"),
        ("{type: language, name: de}", "", "'de' is no language: declare it"),
        ("{type: domain, name: cooking}", "", "'cooking' is no topic, and no domains are declared"),
        ("{type: projection, name: p}", "", "'p' is no output of a mapping: declare it"),
        ("{type: complexity, name: c}", "", "a complexity is named RULE:LEVEL"),
        ("{type: classifier, name: own}", "", "give label, one of x, y"),
        ("{type: classifier, name: own, label: z}", "", "'z' is no label of own: give one of x, y"),
        ("{type: keyword, name: urgent, label: x}", "", "a keyword has no labels: remove label"),
        (
            "{type: keyword, name: urgent, on_error: match}",
            ".on_error",
            "on_error is for classifiers",
        ),
        (
            "{operator: AND, conditions: [{type: keyword, name: urgent, on_unknown: match}]}",
            ".conditions[0].on_unknown",
            "on_unknown belongs to the top of rules",
        ),
        (
            "{operator: AND, on_unknown: match, conditions: "
            "[{type: classifier, name: own, label: x, on_error: match}]}",
            "",
            "keep one of them",
        ),
        ("{operator: OR}", "", "OR without conditions can never be true"),
        (
            "{operator: NOT, conditions: [{operator: AND}]}",
            ".conditions[0]",
            "an operator needs conditions",
        ),
        ("{operator: XOR}", "", "operator must be AND, OR or NOT, got 'XOR'"),
        ("{operator: NOT}", "", "NOT takes one condition, got 0"),
        ("{type: keyword, operator: AND, name: urgent}", "", "not both"),
        ("{name: urgent}", "", "a condition needs its type"),
        (
            "{type: keyword, name: urgent, predicate: {gt: 2, lt: 1}}",
            ".predicate",
            "the range gt 2, lt 1 has no number in it",
        ),
    ],
)
def test_conditions_that_name_nothing_or_say_nothing(rules: str, path: str, words: str) -> None:
    line, found, text = one(decision(rules))
    assert (line, found) == (14, f"routing.decisions[0].rules{path}")
    assert words in text


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ('base_url: "localhost:8000"', "base_url can't be asked: it needs http or https"),
        ('base_url: "http://me:secret@h"', "and neither a user nor a fragment"),
        ('endpoint: "h:99999"', "endpoint can't be asked: Port out of range 0-65535"),
        ('endpoint: "a..b"', "endpoint can't be asked: encoding with 'idna' codec failed"),
        ("endpoint: h, chat_path: chat", "chat_path must begin with /, got 'chat'"),
        ('endpoint: h, extra_headers: {a: "\u2713"}', "the header 'a' can't be sent"),
        ("endpoint: h, extra_headers: {Host: b}", "the router itself sets the header 'Host'"),
    ],
)
def test_servers_that_can_not_be_asked(ref: str, words: str) -> None:
    text = f"version: v0.3\nproviders: {{models: [{{name: a, backend_refs: [{{{ref}}}]}}]}}"
    line, path, found = one(text)
    assert (line, path) == (2, "providers.models[0].backend_refs[0]")
    assert words in found
    assert "secret" not in found


URGENT, LOUD = "{type: keyword, name: urgent}", "{type: keyword, name: loud}"


@pytest.mark.parametrize(
    "rules",
    [
        f"{{operator: AND, conditions: [{URGENT}, {{operator: NOT, conditions: [{URGENT}]}}]}}",
        f"{{operator: AND, conditions: [{{operator: NOT, conditions: [{{operator: OR, conditions: "
        f"[{URGENT}, {LOUD}]}}]}}, {LOUD}]}}",
        "{operator: AND, conditions: [{type: complexity, name: 'c:hard'}, "
        "{type: complexity, name: 'c:easy'}]}",
        "{operator: AND, conditions: [{type: classifier, name: own, label: x, predicate: {gt: 1}},"
        " {type: classifier, name: own, label: x, predicate: {lte: 1}}]}",
    ],
)
def test_rules_that_contradict_themselves(rules: str) -> None:
    line, path, text = one(decision(rules))
    assert (line, path) == (14, "routing.decisions[0].rules")
    assert text.startswith("these conditions contradict each other")


def test_the_smallest_contradiction_is_named() -> None:
    never = f"{{operator: AND, conditions: [{URGENT}, {{operator: NOT, conditions: [{URGENT}]}}]}}"
    line, path, _ = one(decision(f"{{operator: OR, conditions: [{LOUD}, {never}]}}"))
    assert (line, path) == (14, "routing.decisions[0].rules.conditions[1]")
    load_config(decision(f"{{operator: OR, conditions: [{LOUD}, {URGENT}]}}"))


def test_decisions_that_can_never_win() -> None:
    rest = f"  - {{name: rest, priority: -1}}\n  - {{name: low, priority: -2, rules: {LOUD}}}"
    line, path, text = one(decision(URGENT, *rest.splitlines()))
    assert (line, path) == (16, "routing.decisions[2]")
    assert text.startswith("this decision can never win: rest (priority -1, tier 0) matches")
    # The same priority is enough: a catch-all has no confidence.
    load_config(decision(URGENT, "  - {name: rest}"))
    # By confidence a catch-all comes last, whatever its priority.
    by_confidence = decision(URGENT, *rest.splitlines()).replace(
        "  decisions:", "  strategy: confidence\n  decisions:"
    )
    load_config(by_confidence)
    # With a tier of its own a decision comes behind a catch-all without one.
    tiered = decision(URGENT, "  - {name: rest}", f"  - {{name: t, tier: 1, rules: {LOUD}}}")
    assert one(tiered)[1] == "routing.decisions[2]"


def test_a_decision_behind_one_with_the_same_conditions() -> None:
    again = f"  - {{name: again, priority: -1, rules: {URGENT}}}"
    line, path, text = one(decision(URGENT, again))
    assert (line, path) == (15, "routing.decisions[1]")
    assert "d (priority 0) has the same conditions" in text
    unknown = "{operator: AND, on_unknown: match, conditions: [" + URGENT + "]}"
    load_config(decision(URGENT, f"  - {{name: again, priority: -1, rules: {unknown}}}"))


@pytest.mark.parametrize(
    ("fields", "path", "words"),
    [
        (
            "modelRefs: [{model: smal}]",
            ".modelRefs[0].model",
            "no model 'smal': did you mean small",
        ),
        (
            "modelRefs: [{model: large, lora_name: lega}]",
            ".modelRefs[0].lora_name",
            "'lega' is no adapter of large by its card in routing.modelCards: did you mean legal?",
        ),
        ("modelRefs: [{model: small, lora_name: l}]", ".modelRefs[0].lora_name", "declare it"),
        (
            "modelRefs: [{model: small}]\n    algorithm: {minimum_candidates: 2}",
            ".modelRefs",
            "there are 1 different models, and algorithm.minimum_candidates is 2",
        ),
        ("algorithm: {type: router_dc}", ".algorithm", "router_dc is not supported: it needs"),
        ("algorithm: {type: fastest}", ".algorithm", "type must be one of static, weighted, knn"),
        (
            "algorithm: {type: static, latency_aware: {ttft_percentile: 50}}",
            ".algorithm",
            "the block latency_aware is for type latency_aware, and this is static",
        ),
        ("plugins: [{type: rag}]", ".plugins[0].type", "the plugin rag is not supported: this"),
        ("plugins: [{type: mask}]", ".plugins[0].type", "unknown plugin 'mask'"),
        (
            "plugins: [{type: tools, configuration: {mode: filtered}}]",
            ".plugins[0].configuration",
            "allow_tools and block_tools belong to mode filtered, which needs some",
        ),
        (
            "plugins: [{type: pii, configuration: {rule: email, action: mask}}]",
            ".plugins[0].configuration.rule",
            "there is no pii signal 'email': declare it in signals.pii",
        ),
        (
            "plugins: [{type: jailbreak, configuration: {rule: a, threshold: 0.7}}]",
            ".plugins[0].configuration.threshold",
            "not supported: name a rule of the signal, which has it, in `rule`",
        ),
        (
            "plugins: [{type: response-cache}, {type: semantic_cache}]",
            ".plugins[1]",
            "'response_cache' is there twice",
        ),
        (
            "plugins: [{type: shadow_dispatch, configuration: {enabled: true, model: larg}}]",
            ".plugins[0].configuration.model",
            "there is no model 'larg': did you mean large?",
        ),
        ("output_contract: a", ".output_contract", "not supported: one request goes to one model"),
    ],
)
def test_what_decisions_lead_to(fields: str, path: str, words: str) -> None:
    text = below_start(f"decisions:\n  - name: d\n    {fields}\n")
    line, found, said = one(text)
    assert line == 14
    assert found == f"routing.decisions[0]{path}"
    assert words in said


def test_names_that_two_have_or_nobody() -> None:
    text = START + textwrap.dedent(
        """\
        recipes: [{name: a}, {name: a}]
        entrypoints:
          - {model_names: [x, small], recipe: b}
          - {model_names: [x, auto, legal], recipe: a}
        """
    )
    assert [(line, path) for line, path, _ in problems(text)] == [
        (12, "recipes[1]"),
        (14, "entrypoints[0].recipe"),
        (14, "entrypoints[0]"),
        (15, "entrypoints[1]"),
        (15, "entrypoints[1]"),
        (15, "entrypoints[1]"),
    ]
    signals = START.replace("name: loud", "name: urgent")
    assert one(signals) == (
        9,
        "routing.signals",
        "two signals of a kind are called 'urgent', the other in line 8: rename one",
    )


def test_a_recipe_that_is_empty_is_none() -> None:
    text = "version: v0.3\nentrypoints: [{model_names: [a], recipe: default}]"
    assert problems(text) == [
        (2, "entrypoints[0].recipe", "there is no recipe 'default': remove it")
    ]
    assert load_config("version: v0.3").entrypoints == {}


def test_models_are_checked_against_those_that_are_served_too() -> None:
    text = below_start("decisions: [{name: d, modelRefs: [{model: other}]}]")
    assert one(text)[1] == "routing.decisions[0].modelRefs[0].model"
    load_config(text, served=["other"])
    entrypoint = f"{text}\nentrypoints: [{{model_names: [other], recipe: default}}]"
    assert problems(entrypoint, served=["other"]) == [
        (13, "entrypoints[0]", "'other' is a model too: give it another name")
    ]
    # A model that is called as an alias is the model.
    assert "auto" not in load_config(text, served=["other", "auto"]).entrypoints
    without = "version: v0.3\nrouting: {decisions: [{name: d, modelRefs: [{model: other}]}]}"
    load_config(without)  # nobody has said which there are
    assert problems(without, served=[])[0][1] == "routing.decisions[0].modelRefs[0].model"


@pytest.mark.parametrize(
    ("projections", "path", "words"),
    [
        (
            "{scores: [{name: s, inputs: [{type: projection, name: s, weight: 1}]}]}",
            "scores[0]",
            "the score s reads itself",
        ),
        (
            "{scores: [{name: s, inputs: [{type: keyword, name: u, weight: 1}]}]}",
            "scores[0].inputs[0]",
            "'u' is no keyword: ",
        ),
        (
            "{scores: [{name: s, inputs: [{type: kb_metric, name: u, weight: 1}]}]}",
            "scores[0].inputs[0]",
            "unknown type of condition 'kb_metric'",
        ),
        ("{mappings: [{name: m, source: s, outputs: []}]}", "mappings[0].source", "is no score"),
        (
            "{partitions: [{name: p, members: [urgent], default: urgent}]}",
            "partitions[0].members",
            "all members must be declared domains, or all embeddings",
        ),
        (
            "{partitions: [{name: p, members: [a], default: b}]}",
            "partitions[0]",
            "default 'b' must be one of the members",
        ),
    ],
)
def test_projections(projections: str, path: str, words: str) -> None:
    line, found, text = one(below_start(f"projections: {projections}"))
    assert (line, found) == (12, f"routing.projections.{path}")
    assert words in text
