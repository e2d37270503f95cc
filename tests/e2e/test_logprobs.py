"""Log-probabilities of sampled, echoed and prompt tokens, through the official client."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.e2e.serving import CAPITAL, ONE_TWO, Server, words

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_logprobs(server: Server, plain: Any) -> None:
    (choice,) = plain.choices
    found = choice.logprobs
    assert "".join(found.tokens) == choice.text
    assert [choice.text[at:][: len(t)] for at, t in zip(found.text_offset, found.tokens,
            strict=True)] == found.tokens  # fmt: skip
    for token, value, top in zip(
        found.tokens, found.token_logprobs, found.top_logprobs, strict=True
    ):
        assert top[token] == value == max(top.values()) < 0  # greedy
        assert sum(map(math.exp, top.values())) < 1
    for count in (0, 1, 5):
        (fewer,) = server.complete(ONE_TWO, max_tokens=2, logprobs=count).choices
        assert [len(top) for top in fewer.logprobs.top_logprobs] == [max(count, 1)] * 2
        assert fewer.logprobs.token_logprobs == found.token_logprobs[:2]
    assert server.complete(ONE_TWO, max_tokens=2).choices[0].logprobs is None
    (chat,) = server.chat(CAPITAL, max_tokens=3, logprobs=True, top_logprobs=4).choices
    assert [len(entry.top_logprobs) for entry in chat.logprobs.content] == [4] * 3
    (bare,) = server.chat(CAPITAL, max_tokens=3, logprobs=True).choices
    assert [entry.top_logprobs for entry in bare.logprobs.content] == [[]] * 3


def test_echo_scores_what_was_generated(server: Server, plain: Any) -> None:
    (choice,) = plain.choices
    whole = ONE_TWO + choice.text
    answer = server.complete(whole, max_tokens=0, echo=True, logprobs=20)
    (scored,) = answer.choices
    assert scored.text == whole
    assert answer.usage.completion_tokens == 0
    assert scored.finish_reason == "length"
    assert scored.logprobs.token_logprobs[0] is None
    assert scored.logprobs.top_logprobs[0] is None
    generated = slice(-len(choice.token_ids), None)
    assert scored.logprobs.tokens[generated] == choice.logprobs.tokens
    # Generated one by one, scored at once: other compiled shapes sum in another order.
    assert scored.logprobs.token_logprobs[generated] == pytest.approx(
        choice.logprobs.token_logprobs, abs=1e-4, rel=0
    )
    (echoed,) = server.complete(ONE_TWO, max_tokens=2, echo=True).choices
    assert echoed.text == ONE_TWO + " four,"
    assert echoed.logprobs is None


def test_prompt_logprobs(server: Server) -> None:
    prompt = words(server, ONE_TWO)
    (choice,) = server.complete(
        ONE_TWO, max_tokens=1, prompt_logprobs=2, echo=True, logprobs=1
    ).choices
    first, *others = choice.prompt_logprobs
    assert first is None
    assert len(others) == len(prompt) - 1
    for token_id, entries, echoed in zip(
        prompt[1:], others, choice.logprobs.token_logprobs[1:], strict=False
    ):
        own = entries[str(token_id)]
        assert own["logprob"] == echoed
        assert own["decoded_token"] == server.http.post(
            "/detokenize", json={"tokens": [token_id]}
        ).json()["prompt"]  # fmt: skip
        assert len(entries) == (2 if own["rank"] <= 2 else 3)
        best = next(entry for entry in entries.values() if entry["rank"] == 1)
        assert best["logprob"] >= own["logprob"]
        assert (own["rank"] == 1) == (own == best)
    chat = server.chat(CAPITAL, max_tokens=1, prompt_logprobs=0)
    assert len(chat.prompt_logprobs) == chat.usage.prompt_tokens
    assert {len(entries) for entries in chat.prompt_logprobs[1:]} == {1}
