"""What our own server streams is read as what it answers whole, in each API."""

from __future__ import annotations

from typing import Any

import pytest

from flaxen.messages_routes.routes import ROUTES
from flaxen.responses_routes.responses import Responses
from flaxen.responses_routes.routes import all_routes
from flaxen.responses_routes.stored import MemoryStore
from flaxen.router.plugins.answers.streams import answer_reply, whole_answer
from flaxen.router.reasoning import Reasons, with_reasoning
from flaxen.router.selection.algorithms import Confidence
from flaxen.router.selection.logprobs import as_asked, tokens_of, with_logprobs
from flaxen.server.app import create_app
from flaxen.server.config import ServerConfig
from tests.responses_routes.serving import SAYS, TEMPLATE
from tests.server.clients import post
from tests.server.fakes import END, FakeEngine, byte_tokenizer

FUNCTION = {"name": "f", "parameters": {"type": "object"}}
MESSAGES = [{"role": "user", "content": "Hi"}]
CHAT = {"messages": MESSAGES, "tools": [{"type": "function", "function": FUNCTION}]}
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", CHAT | {"n": 2, "logprobs": True, "top_logprobs": 2}),
    "completions": ("/v1/completions", {"prompt": ["a", "b"], "logprobs": 2, "max_tokens": 9}),
    "responses": ("/v1/responses", {"input": "Hi", "tools": [{"type": "function", **FUNCTION}]}),
    "messages": (
        "/v1/messages",
        {"messages": MESSAGES, "max_tokens": 500}
        | {"tools": [{"name": "f", "input_schema": {"type": "object"}}]},
    ),
}
# New in each answer.
NEW = {"id", "call_id", "created", "created_at", "completed_at"}


def without_new(value: Any) -> Any:
    """An answer without what is new in each, and without fields that say nothing."""
    if isinstance(value, dict):
        return {k: without_new(v) for k, v in value.items() if k not in NEW and v not in (None, [])}
    return [without_new(each) for each in value] if isinstance(value, list) else value


def make_app() -> Any:
    engine = FakeEngine(says=lambda request, index: [*SAYS.encode(), END])
    routes = {**ROUTES, **all_routes(Responses(store=MemoryStore()))}
    return create_app(engine, byte_tokenizer(TEMPLATE), ServerConfig(), more_routes=routes)


@pytest.mark.parametrize("api", ASKED)
def test_a_stream_is_the_whole_answer(api: str) -> None:
    app = make_app()
    path, body = ASKED[api]
    body = body | {"model": "fake/model"}
    plain = whole_answer(api, post(app, path, body).content, is_stream=False)
    stream: dict[str, Any] = {"stream": True}
    if api in ("chat", "completions"):
        stream["stream_options"] = {"include_usage": True}
    came = post(app, path, body | stream)
    whole = whole_answer(api, came.content, is_stream=True)
    assert plain is not None
    assert without_new(whole) == without_new(plain)
    again = answer_reply(api, plain, body | stream).body
    assert whole_answer(api, again, is_stream=True) == plain


@pytest.mark.parametrize("api", ["chat", "completions"])
@pytest.mark.parametrize("method", ["avg_logprob", "margin"])
def test_a_cascade_reads_log_probabilities_and_leaves_those_that_were_asked_for(
    api: str, method: Any
) -> None:
    app, settings = make_app(), Confidence(confidence_method=method, threshold=0.5)
    path, given = ASKED[api]
    given = given | {"model": "fake/model"}
    for body in (given, {k: v for k, v in given.items() if "logprobs" not in k}):
        asked = with_logprobs(body, api, settings)
        answers = [
            whole_answer(
                api, post(app, path, asked | {"stream": is_stream}).content, is_stream=is_stream
            )
            for is_stream in (False, True)
        ]
        assert answers[0] is not None
        assert answers[1] is not None
        tokens = tokens_of(answers[0], api, body)
        assert tokens == tokens_of(answers[1], api, body)
        assert len(tokens) > 1
        if method == "margin":
            assert all(token.second is not None for token in tokens)
        plain = whole_answer(api, post(app, path, body).content, is_stream=False)
        assert without_new(as_asked(answers[0], api, body)) == without_new(plain)


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
def test_it_reads_how_its_model_reasons(api: str) -> None:
    app, (path, body) = make_app(), ASKED[api]
    for reasons in (
        Reasons(is_on=True, variables={"reasoning_effort": "low"}, effort="low"),
        Reasons(is_on=True, variables={"enable_thinking": True}),
        Reasons(is_on=False, variables={"enable_thinking": False}),
    ):
        sent = with_reasoning(body | {"model": "fake/model"}, api, reasons)
        assert sent != body | {"model": "fake/model"}
        answer = post(app, path, dict(sent))
        if api == "messages" and not reasons.is_on:  # this model's template has no switch
            assert "reasoning can't be turned off" in answer.json()["error"]["message"]
        else:
            assert answer.status_code == 200
