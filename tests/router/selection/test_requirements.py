"""Candidates that can't answer are out, each with its cause and reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flaxen.router.request import Message, RoutedRequest, Tool
from flaxen.router.selection.candidate import Candidate, Facts
from flaxen.router.selection.requirements import CandidateRequirements, split
from flaxen.router.selection.selected import Excluded, NoModelError
from flaxen.router.selection.selecting import Policy, select
from tests.router.selection.making import ASKED, candidate, live

DECLARED = CandidateRequirements(capabilities="declared")
KNOWN = CandidateRequirements(context="known_limits")
WITH_IMAGE = replace(ASKED, messages=(Message(role="user", text="What is it?", num_images=1),))
WITH_TOOL = replace(ASKED, tools=(Tool(name="ls", definition={"name": "ls"}),))
AS_JSON = replace(ASKED, response_format={"type": "json_object"})


def _excluded(
    request: RoutedRequest,
    each: Candidate,
    requirements: CandidateRequirements = CandidateRequirements(),  # noqa: B008 (frozen)
    facts: Facts = Facts(),  # noqa: B008
    failed: dict[str, str] | None = None,
) -> tuple[str, str] | None:
    pool, out = split(request, [each], requirements, facts, failed or {})
    assert len(pool) + len(out) == 1
    return (out[0].cause, out[0].reason) if out else None


@pytest.mark.parametrize(
    ("request_", "capability", "cause"),
    [
        (WITH_IMAGE, "vision", "modality"),
        (WITH_IMAGE, "multimodal", "modality"),
        (WITH_TOOL, "tools", "tools"),
        (AS_JSON, "structured_output", "structured_output"),
    ],
)
def test_capabilities_must_be_declared_where_the_recipe_says_so(
    request_: RoutedRequest, capability: str, cause: str
) -> None:
    says_nothing = candidate("a")
    says_it = candidate("a", capabilities=frozenset({"chat", capability}))
    assert _excluded(request_, says_nothing) is None
    assert _excluded(request_, says_it, DECLARED) is None
    found = _excluded(request_, says_nothing, DECLARED)
    assert found is not None
    assert found[0] == cause
    assert _excluded(ASKED, says_nothing, DECLARED) is None


def test_declared_modalities_always_count() -> None:
    texts = candidate("a", modalities=frozenset({"text"}))
    images = candidate("a", modalities=frozenset({"text", "image"}))
    assert _excluded(WITH_IMAGE, texts) == (
        "modality",
        "the request has image, which it does not declare",
    )
    assert _excluded(WITH_IMAGE, images, DECLARED) is None


def test_tools_that_must_not_be_called_and_plain_text_need_nothing() -> None:
    each = candidate("a")
    assert _excluded(replace(WITH_TOOL, tool_choice="none"), each, DECLARED) is None
    assert _excluded(replace(ASKED, response_format={"type": "text"}), each, DECLARED) is None


def test_the_context_is_counted_by_the_models_own_tokenizer() -> None:
    # 4 tokens frame the message; the texts are its role and "Hello"; the answer has one at least.
    by_words = candidate("a", count_tokens=lambda text: len(text.split()), context_window=7)
    by_letters = candidate("a", count_tokens=len, context_window=7)
    assert _excluded(ASKED, by_words) is None
    assert _excluded(ASKED, by_letters) == (
        "context",
        "the request needs 14 tokens, and its context has 7",
    )
    assert _excluded(ASKED, replace(by_letters, context_window=14)) is None
    assert _excluded(replace(ASKED, max_tokens=2), replace(by_words, context_window=7)) is not None


def test_a_tokenizer_that_candidates_share_counts_once() -> None:
    counted = []

    def count(text: str) -> int:
        counted.append(text)
        return 1

    adapters = [candidate(name, count_tokens=count, context_window=7) for name in "abc"]
    assert split(ASKED, adapters, CandidateRequirements(), Facts(), {}) == (adapters, [])
    assert counted == ["user", "Hello"]


def test_the_answer_must_fit() -> None:
    short = candidate("a", max_output_tokens=8)
    assert _excluded(replace(ASKED, max_tokens=8), short) is None
    assert _excluded(replace(ASKED, max_tokens=9), short) == (
        "output",
        "the answer may have 9 tokens, and its are at most 8 long",
    )


def test_limits_must_be_known_where_the_recipe_says_so() -> None:
    each = candidate("a", context_window=100)
    found = _excluded(ASKED, each, KNOWN)
    assert found == ("output", "it does not declare max_output_tokens")
    found = _excluded(ASKED, candidate("a", max_output_tokens=9), KNOWN)
    assert found == ("context", "it does not declare context_window_size")
    assert _excluded(ASKED, replace(each, max_output_tokens=9), KNOWN) is None


def test_who_may_not_and_what_failed_or_is_open_is_out() -> None:
    each = candidate("a")
    denied = Facts(live={"a": live(denied="the key is for other models", is_open=True)})
    assert _excluded(ASKED, each, facts=denied) == ("authorization", "the key is for other models")
    found = _excluded(ASKED, each, failed={"a": "timeout after 10 s"})
    assert found == ("failed", "it failed this request: timeout after 10 s")
    found = _excluded(ASKED, each, facts=Facts(live={"a": live(is_open=True)}))
    assert found == ("circuit", "its circuit is open, because it failed too often")


def test_without_a_candidate_the_error_names_each_reason() -> None:
    candidates = [candidate("a", max_output_tokens=1), candidate("b")]
    facts = Facts(live={"b": live(is_open=True)})
    asked = replace(ASKED, max_tokens=2)
    told = "0 candidates can answer, of at least 1: a: the answer may have 2 .*; b: its circuit"
    with pytest.raises(NoModelError, match=told) as caught:
        select(asked, candidates, Policy(), facts)
    assert caught.value.may_pass  # b may recover
    with pytest.raises(NoModelError) as caught:
        select(asked, candidates[:1], Policy(), facts)
    assert not caught.value.may_pass
    assert [each.cause for each in caught.value.excluded] == ["output"]
    with pytest.raises(NoModelError, match="the decision names no models"):
        select(asked, [], Policy(), facts)


def test_what_was_excluded_is_in_the_selection() -> None:
    facts = Facts(live={"a": live(is_open=True)})
    selected = select(ASKED, [candidate("a"), candidate("b")], Policy(), facts)
    assert selected.model == "b"
    assert [str(each) for each in selected.excluded] == [
        "a: its circuit is open, because it failed too often"
    ]
    assert isinstance(selected.excluded[0], Excluded)
