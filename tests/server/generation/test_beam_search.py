"""Beam search over an engine whose probabilities are a table: it finds the best there are."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from flaxen.protocol import LogprobsMode, Request, TokenEvent, TokenLogprobs
from tests.server.clients import make_app, post
from tests.server.fakes import END, ERROR, FakeEngine

A, B = ord("a"), ord("b")
TOKENS = (A, B, END)
PROMPT = {"prompt": [1, 2, 3], "use_beam_search": True}


def logprobs_after(token_ids: tuple[int, ...]) -> list[tuple[int, float]]:
    """The log-probabilities of the three tokens, which depend on all before; likeliest first."""
    draw = random.Random(str(token_ids))
    weights = [draw.random() + 0.01 for _ in TOKENS]
    found = [(i, math.log(w / sum(weights))) for i, w in zip(TOKENS, weights, strict=True)]
    return sorted(found, key=lambda each: -each[1])


class TableEngine(FakeEngine):
    def _event(self, request: Request, *rest: Any) -> TokenEvent:
        event = FakeEngine._event(self, request, *rest)
        top = logprobs_after(request.prompt_token_ids)[: request.sampling.logprobs]
        scored = TokenLogprobs(token_id=top[0][0], logprob=top[0][1], rank=1, top=top)
        return replace(event, token_ids=(scored.token_id,), text="", logprobs=(scored,))


ENGINE = TableEngine()
APP = make_app(ENGINE)


def complete(app: Any = APP, **body: Any) -> dict[str, Any]:
    answer = post(app, "/v1/completions", PROMPT | body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def all_continuations(most: int, *, stops: bool = True) -> Iterator[tuple[tuple[int, ...], float]]:
    """Each with the sum of its log-probabilities: those that end earlier, and the longest ones."""
    for length in range(1, most + 1):
        for tokens in itertools.product(TOKENS, repeat=length):
            ends = tokens[-1] == END and stops
            if (stops and END in tokens[:-1]) or not (ends or length == most):
                continue
            yield (
                tokens,
                sum(
                    dict(logprobs_after((1, 2, 3, *tokens[:place])))[token_id]
                    for place, token_id in enumerate(tokens)
                ),
            )


@pytest.mark.parametrize("penalty", [1, 0, -1.5, 2])
def test_all_beams_together_are_an_exhaustive_search(penalty: float) -> None:
    # 10 beams hold the 8 continuations of 3 tokens that have not ended.
    answer = complete(n=10, max_tokens=3, length_penalty=penalty, return_token_ids=True)

    def score(found: tuple[tuple[int, ...], float]) -> float:
        tokens, logprob = found
        return logprob / (3 + len(tokens) - (tokens[-1] == END)) ** penalty

    best = sorted(all_continuations(3), key=score, reverse=True)[:10]
    choices = answer["choices"]
    assert [tuple(choice["token_ids"]) for choice in choices] == [tokens for tokens, _ in best]
    assert [choice["index"] for choice in choices] == list(range(10))
    for choice, (tokens, _) in zip(choices, best, strict=True):
        assert choice["text"] == bytes(i for i in tokens if i != END).decode()
        assert choice["finish_reason"] == ("stop" if tokens[-1] == END else "length")
        assert choice["stop_reason"] is None
    assert answer["usage"]["prompt_tokens"] == 3
    assert answer["usage"]["completion_tokens"] == sum(len(tokens) for tokens, _ in best)
    assert not ENGINE.open


def test_one_beam_is_greedy() -> None:
    tokens: tuple[int, ...] = ()
    while len(tokens) < 5:
        tokens += (logprobs_after((1, 2, 3, *tokens))[0][0],)
    answer = complete(n=1, max_tokens=5, ignore_eos=True, return_token_ids=True, logprobs=1)
    (choice,) = answer["choices"]
    assert tuple(choice["token_ids"]) == tokens
    expected = [logprobs_after((1, 2, 3, *tokens[:i]))[0][1] for i in range(5)]
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(expected)


def test_stop_tokens_end_a_beam_and_are_told() -> None:
    answer = complete(n=2, max_tokens=2, stop_token_ids=[A, B], ignore_eos=True)
    ended = [choice for choice in answer["choices"] if choice["finish_reason"] == "stop"]
    assert {choice["stop_reason"] for choice in ended} <= {A, B}
    assert ended
    kept = complete(n=2, max_tokens=2, stop_token_ids=[A, B], include_stop_str_in_output=True)
    assert [choice["text"][-1:] for choice in kept["choices"] if choice["text"]]


def test_chats_and_several_prompts_are_searched_too() -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "n": 2, "max_tokens": 2}
    chat = post(APP, "/v1/chat/completions", body | {"use_beam_search": True}).json()
    assert len(chat["choices"]) == 2
    both = complete(prompt=[[1, 2, 3], [4]], n=2, max_tokens=2, return_token_ids=True)["choices"]
    alone = complete(n=2, max_tokens=2, return_token_ids=True)["choices"]
    assert [each["token_ids"] for each in both[:2]] == [each["token_ids"] for each in alone]


class _Failing(TableEngine):
    """Fails at the second step."""

    def _event(self, request: Request, *rest: Any) -> TokenEvent:
        event = TableEngine._event(self, request, *rest)
        return replace(event, finish=ERROR) if len(request.prompt_token_ids) > 3 else event


def test_a_failing_step_fails_the_request() -> None:
    engine = _Failing()
    app = make_app(engine)
    answer = post(app, "/v1/completions", PROMPT | {"n": 2})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert not engine.open
    busy = make_app(TableEngine(max_waiting=0))
    assert post(busy, "/v1/completions", PROMPT).status_code == 429


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"stream": True}, "stream"), ({"top_p": 0.5}, "top_p"), ({"stop": "a"}, "stop"),
        ({"min_tokens": 1}, "min_tokens"), ({"n": 11}, "n"),
        ({"logit_bias": {"5": 1}}, "logit_bias"), ({"early_stopping": True}, "early_stopping"),
        ({"length_penalty": 11}, "length_penalty"), ({"echo": True, "logprobs": 1}, "echo"),
        ({"use_beam_search": False, "length_penalty": 0.5}, "length_penalty"),
        ({"allowed_token_ids": [5]}, "allowed_token_ids"),
    ],
    ids=str,
)  # fmt: skip
def test_what_it_is_not_combined_with(body: dict[str, Any], param: str) -> None:
    answer = post(APP, "/v1/completions", PROMPT | body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_values_that_say_nothing_are_accepted() -> None:
    neutral = {"top_p": 1.0, "top_k": 0, "stop": [], "logit_bias": {}, "temperature": 0.0}
    assert complete(**neutral, n=2, max_tokens=2)["choices"]


def test_logits_are_not_added_up() -> None:
    engine = TableEngine()
    engine.info = replace(engine.info, logprobs_mode=LogprobsMode.RAW_LOGITS)
    error = post(make_app(engine), "/v1/completions", PROMPT).json()["error"]
    assert error["param"] == "use_beam_search"
    assert "--logprobs-mode raw_logits" in error["message"]
