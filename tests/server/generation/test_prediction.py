"""The field `prediction`: how it is read, when it is refused, and what `usage` tells of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.server.clients import events, make_app, post
from tests.server.fakes import STOP, FakeEngine

CHAT = "/v1/chat/completions"
MESSAGES = {"messages": [{"role": "user", "content": "Hi"}]}
BODY = MESSAGES | {"max_tokens": 8}
TEXT = {"type": "content", "content": "abc"}


def engine_of(**kwargs: Any) -> FakeEngine:
    engine = FakeEngine(**kwargs)
    engine.info = replace(engine.info, takes_predictions=True)
    return engine


ENGINE = engine_of()
APP = make_app(ENGINE)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("abc", "abc"),
        ([{"type": "text", "text": "ab"}, {"type": "text", "text": "c\n"}], "abc\n"),
        ([], ""),
        ("", ""),
    ],
)
def test_the_engine_gets_the_tokens_of_the_text(content: Any, text: str) -> None:
    answer = post(APP, CHAT, BODY | {"prediction": {"type": "content", "content": content}})
    assert answer.status_code == 200, answer.text
    assert ENGINE.requests[-1].prediction_token_ids == tuple(text.encode())  # without "<s>"
    assert ("completion_tokens_details" in answer.json()["usage"]) == bool(text)


def test_without_one_nothing_is_told() -> None:
    for body in (BODY, BODY | {"prediction": None}):
        answer = post(APP, CHAT, body)
        assert ENGINE.requests[-1].prediction_token_ids == ()
        assert "completion_tokens_details" not in answer.json()["usage"]


COUNTED = {"accepted_prediction_tokens": 5, "rejected_prediction_tokens": 2}


def test_usage_counts_its_tokens_whole_and_streamed() -> None:
    app = make_app(engine_of(ends={3: replace(STOP, num_predicted_right=5, num_predicted_wrong=2)}))
    body = BODY | {"prediction": TEXT}
    assert post(app, CHAT, body).json()["usage"]["completion_tokens_details"] == COUNTED
    streamed = body | {"stream": True, "stream_options": {"include_usage": True}}
    *_, last, done = events(post(app, CHAT, streamed))
    assert last["usage"]["completion_tokens_details"] == COUNTED
    assert done == "[DONE]"


def error_of(app: Any, body: dict[str, Any], path: str = CHAT) -> dict[str, Any]:
    answer = post(app, path, BODY | body)
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


def test_a_server_without_drafts_of_texts_refuses_it_and_says_how_to_start() -> None:
    error = error_of(make_app(), {"prediction": TEXT})
    assert (error["param"], error["code"]) == ("prediction", "unsupported_parameter")
    assert """--speculative-config '{"method": "ngram"}'""" in error["message"]


@pytest.mark.parametrize(
    "field",
    [
        {"n": 2, "logprobs": True, "presence_penalty": 0.5, "max_completion_tokens": 8},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"temperature": 0.5, "seed": 1, "stop": "x", "response_format": {"type": "json_object"}},
        {"modalities": ["text"]},
    ],
    ids=str,
)
def test_other_fields_are_taken_beside_it(field: dict[str, Any]) -> None:
    assert post(APP, CHAT, {**MESSAGES, **field, "prediction": TEXT}).status_code == 200


@pytest.mark.parametrize(
    ("given", "param", "message"),
    [
        ("abc", "prediction", "must be an object"),
        ({"content": "a"}, "prediction.type", "is required"),
        ({"type": "text", "content": "a"}, "prediction.type", "must be 'content', got 'text'"),
        ({"type": "content"}, "prediction.content", "is required"),
        (TEXT | {"x": 1}, "prediction.x", "unknown field"),
        ({"type": "content", "content": 1}, "prediction.content", "a string or a list of text"),
        (
            {"type": "content", "content": [{"type": "image_url"}]},
            "prediction.content[0]",
            "must be a part of type 'text'",
        ),
    ],
)
def test_another_form_is_refused(given: Any, param: str, message: str) -> None:
    error = error_of(APP, {"prediction": given})
    assert error["param"] == param
    assert message in error["message"]


def test_several_chats_have_no_prediction() -> None:
    several = {"messages": [BODY["messages"]], "prediction": TEXT}
    error = error_of(APP, several, CHAT + "/batch")
    assert (error["param"], error["code"]) == ("prediction", "unsupported_parameter")
