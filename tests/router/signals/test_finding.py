"""FreeSignals: a kind is found once a request, when one of its rules is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from flaxen.router.signals import finding
from flaxen.router.signals.finding import FreeSignals
from flaxen.router.signals.found import Found
from flaxen.router.signals.kinds import SignalKind
from flaxen.router.signals.settings import Finder, SignalSettings
from tests.router.signals.rules import BY_COLLECTION, build, of, with_messages


def rules(collection: str, *given: dict[str, Any]) -> dict[str, list[Any]]:
    return {collection: [build(BY_COLLECTION[collection].rule, rule) for rule in given]}


def test_rules_are_found_by_condition_and_name() -> None:
    keywords = rules(
        "keywords",
        {"name": "a", "operator": "OR", "keywords": ["one"]},
        {"name": "b", "operator": "NOR", "keywords": ["one"]},
    )
    context = rules("context", {"name": "short", "max_tokens": "99"})
    find = FreeSignals(keywords | context, SignalSettings()).of(of("one"))
    results = [find("keyword", "a"), find("keyword", "b"), find("context", "short")]
    assert [result and result.matched for result in results] == [True, False, True]
    with pytest.raises(KeyError, match="other"):
        find("keyword", "other")


def test_what_a_model_finds_is_none() -> None:
    reasks = rules("reasks", {"name": "repeat"})
    assert FreeSignals(reasks, SignalSettings()).of(of("one"))("reask", "repeat") is None


def test_a_kind_is_found_once_and_only_if_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def prepare(of_kind: Sequence[str], settings: SignalSettings) -> Finder:
        return lambda request: [asked.append(of_kind[0]) or Found(matched=True)]  # type: ignore[func-returns-value]

    kinds = [
        SignalKind(collection=name, condition=name, rule=str, prepare=prepare, named_by="__doc__")
        for name in ("a", "b")
    ]
    monkeypatch.setattr(finding, "KINDS", kinds)
    signals = FreeSignals({"a": ["a"], "b": ["b"]}, SignalSettings())
    find = signals.of(of(""))
    for _ in range(2):
        assert find("a", str.__doc__ or "") == Found(matched=True)
    assert asked == ["a"]


def test_a_role_is_there_if_any_binding_gives_it() -> None:
    bindings = rules(
        "role_bindings",
        *(
            {"name": name, "role": "staff", "subjects": [{"kind": "User", "name": name}]}
            for name in ("ann", "bob", "cat")
        ),
    )
    signals = FreeSignals(bindings, SignalSettings())
    for user, expected in (("bob", True), ("dan", False), ("", None)):
        headers = {"x-authz-user-id": user}
        result = signals.of(with_messages([], headers=headers))("authz", "staff")
        assert result is not None
        assert result.matched is expected
