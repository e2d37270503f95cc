"""LearnedSignals: one pass for all kinds that read a text, unknown in place of errors and waiting,
and nothing is made that would be unknown always."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from flaxen.learned_signals.encoder import Encoder
from flaxen.learned_signals.finder import Read
from flaxen.learned_signals.head import Head, HeadStack
from flaxen.learned_signals.learned_signals import LearnedSignals
from flaxen.learned_signals.making import learned_signals
from flaxen.router.decisions.tree import SignalKey
from flaxen.router.request import RoutedRequest
from flaxen.router.signals.embedded import EmbeddingRule, PreferenceRule, ReaskRule
from flaxen.router.signals.found import Found
from flaxen.router.signals.heads import ClassifierRule, DomainRule
from flaxen.router_config.signal_settings import ModelCatalog
from tests.learned_signals.conftest import MakeEncoder
from tests.learned_signals.made import asked, head

RULES: Mapping[str, list[Any]] = {
    "embeddings": [EmbeddingRule(name="e", threshold=0.9, candidates=("the sky",))],
    "preferences": [PreferenceRule(name="p", description="the sea")],
    "reasks": [ReaskRule(name="again")],
}
WANTED = [("embedding", "e"), ("preference", "p"), ("reask", "again")]


def make(encoder: Encoder, **heads: Head) -> LearnedSignals:
    return asyncio.run(learned_signals(encoder, RULES, ModelCatalog(), heads))


def test_kinds_share_a_pass_and_results_do_not_depend_on_company(
    make_encoder: MakeEncoder,
) -> None:
    encoder = make_encoder()
    signals = make(encoder)
    before = encoder.num_passes
    request = asked("the sky", "is blue", "the sky is blue")
    together = asyncio.run(signals.find(request, WANTED))
    assert encoder.num_passes == before + 1  # the turn before is a candidate's text
    assert list(together) == [SignalKey(*key) for key in WANTED]
    for key in WANTED:
        assert asyncio.run(make(make_encoder()).find(request, [key])) == {
            SignalKey(*key): together[SignalKey(*key)]
        }
    assert asyncio.run(signals.find(request, [])) == {}


def test_many_requests_at_once_find_what_each_finds_alone(make_encoder: MakeEncoder) -> None:
    requests = [asked(f"the {word} is blue") for word in ("sky", "sea", "fish", "a", "b")] * 3

    async def at_once(signals: LearnedSignals) -> list[Mapping[SignalKey, Found]]:
        return list(await asyncio.gather(*(signals.find(r, WANTED) for r in requests)))

    together = asyncio.run(at_once(make(make_encoder())))
    alone = make(make_encoder())
    assert together == [asyncio.run(alone.find(request, WANTED)) for request in requests]


class Failing:
    """Finders that wait, or fail."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    async def find(self, request: RoutedRequest, read: Read) -> Mapping[str, Found]:
        if self._error is not None:
            raise self._error
        await asyncio.sleep(60)
        return {}


@pytest.mark.parametrize(
    ("error", "reason"),
    [(None, "took longer than 0.05 s"), (RuntimeError("no vector"), "no vector")],
)
def test_what_fails_or_takes_too_long_is_unknown(
    error: Exception | None, reason: str, make_encoder: MakeEncoder
) -> None:
    signals = LearnedSignals(
        make_encoder(), {"embedding": Failing(error)}, HeadStack({}), timeout_s=0.05
    )
    found = asyncio.run(signals.find(asked("a"), [("embedding", "e")]))[SignalKey("embedding", "e")]
    assert found.matched is None
    assert reason in found.reason


def test_a_text_that_is_too_long_is_unknown_and_says_so(make_encoder: MakeEncoder) -> None:
    signals = make(make_encoder(max_windows=2))
    found = asyncio.run(signals.find(asked("sky " * 400), WANTED))
    assert found[SignalKey("embedding", "e")].matched is None
    assert "at most 2 are read" in found[SignalKey("embedding", "e")].reason
    assert found[SignalKey("reask", "again")].matched is False  # needs no text before


def test_errors_of_ours_are_not_hidden(make_encoder: MakeEncoder) -> None:
    failing = Failing(TypeError("a bug"))
    signals = LearnedSignals(make_encoder(), {"embedding": failing}, HeadStack({}))
    with pytest.raises(TypeError, match="a bug"):
        asyncio.run(signals.find(asked("a"), [("embedding", "e")]))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"domains": [DomainRule(name="law")]}, "flaxen route train domain"),
        (
            {
                "classifiers": [
                    ClassifierRule(name="c", type="llm", labels=("a",), instructions="?")
                ]
            },
            "only local heads",
        ),
        (
            {"classifiers": [ClassifierRule(name="c", type="local", labels=("a", "b"))]},
            "a head with the labels a, b",
        ),
        ({"kb": [object()]}, "knowledge bases are not found"),
    ],
)
def test_what_nothing_finds_is_refused(
    rules: dict[str, list[Any]], message: str, make_encoder: MakeEncoder
) -> None:
    with pytest.raises(ValueError, match=message):
        asyncio.run(learned_signals(make_encoder(), rules, ModelCatalog(), {}))


def test_a_head_of_another_encoder_is_refused(make_encoder: MakeEncoder) -> None:
    with pytest.raises(ValueError, match="3 dimensions, and this one has 48"):
        make(make_encoder(), domain=head("domain", ("a", "b", "c")))
