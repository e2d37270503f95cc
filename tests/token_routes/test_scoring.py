"""Scores of texts by the tokens that a model goes on with."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from flaxen.protocol import LogprobsMode, Request, TokenEvent, TokenLogprobs
from flaxen.server.app import create_app
from flaxen.server.config import ServerConfig
from flaxen.token_routes.routes import ROUTES
from tests.server.clients import post
from tests.server.fakes import BOS, FakeEngine, byte_tokenizer

PATH = "/generative_scoring"
YES, NO = 121, 110


class Judge(FakeEngine):
    """Thinks the better of label i, the longer the prompt is, and the lower its id."""

    def _event(self, request: Request, *rest: Any) -> TokenEvent:
        event = FakeEngine._event(self, request, *rest)
        top = [
            (label, -label / 100 - 1 / len(request.prompt_token_ids))
            for label in request.sampling.logprob_token_ids
        ]
        entry = TokenLogprobs(token_id=event.token_ids[0], logprob=-1.0, rank=1, top=top)
        return TokenEvent(
            request_id=event.request_id,
            index=event.index,
            token_ids=event.token_ids,
            logprobs=(entry,),
            finish=event.finish,
        )


ENGINE = Judge()
APP = create_app(ENGINE, byte_tokenizer(), ServerConfig(), more_routes=ROUTES)
BODY = {"query": "is ", "items": ["a", "bc"], "label_token_ids": [YES, NO]}


def test_a_score_is_the_probability_of_the_first_label() -> None:
    answer = post(APP, PATH, BODY).json()
    assert answer["id"].startswith("generative-scoring-")
    assert answer["object"] == "list"
    assert [(each["index"], each["object"]) for each in answer["data"]] == [
        (0, "score"),
        (1, "score"),
    ]
    among = math.exp(-1.21) / (math.exp(-1.21) + math.exp(-1.10))
    assert [each["score"] for each in answer["data"]] == pytest.approx([among, among])
    usage = answer["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (5 + 6, 2)
    plain = post(APP, PATH, BODY | {"apply_softmax": False}).json()["data"]
    expected = [math.exp(-1.21 - 1 / length) for length in (5, 6)]
    assert [each["score"] for each in plain] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("body", "prompt"),
    [
        ({}, (BOS, *b"is a")),
        ({"item_first": True}, (BOS, *b"ais ")),
        ({"add_special_tokens": False}, tuple(b"is a")),
        ({"query": [1, 2], "items": [[3]]}, (1, 2, 3)),
        ({"query": [1, 2], "items": [[3]], "item_first": True}, (3, 1, 2)),
    ],
)
def test_items_stand_behind_the_query_or_before_it(
    body: dict[str, Any], prompt: tuple[int, ...]
) -> None:
    engine = Judge()
    app = create_app(engine, byte_tokenizer(), ServerConfig(), more_routes=ROUTES)
    assert post(app, PATH, BODY | body).status_code == 200
    assert engine.requests[0].prompt_token_ids == prompt


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"items": []}, "items"),
        ({"items": [[1]]}, "items"),
        ({"label_token_ids": []}, "label_token_ids"),
        ({"label_token_ids": [258]}, "label_token_ids"),
        ({"temperature": 0.5}, "temperature"),
        ({"stream": True}, "stream"),
    ],
)
def test_what_is_refused(body: dict[str, Any], param: str) -> None:
    answer = post(APP, PATH, BODY | body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    missing = post(APP, PATH, {"query": "a", "items": ["b"]})
    assert missing.json()["error"]["param"] == "label_token_ids"


def test_logits_are_no_probabilities() -> None:
    engine = Judge()
    engine.info = replace(engine.info, logprobs_mode=LogprobsMode.RAW_LOGITS)
    app = create_app(engine, byte_tokenizer(), ServerConfig(), more_routes=ROUTES)
    assert post(app, PATH, BODY).status_code == 200
    answer = post(app, PATH, BODY | {"apply_softmax": False})
    assert answer.json()["error"]["param"] == "apply_softmax"
