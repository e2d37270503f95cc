"""A refused value is named by its own field, also where only the engine can tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flaxen.engine.validate import validate
from flaxen.protocol import FieldError, Finish, FinishReason, Request
from flaxen.scheduling.config import EngineConfig
from tests.scheduling.groups import full
from tests.server.clients import events, make_app, post
from tests.server.fakes import STOP, FakeEngine

CONFIG = EngineConfig(
    max_num_seqs=4, max_waiting=4, max_model_len=64, groups=full(64), page_size=16, max_logprobs=20
)
COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"
LONG = "a" * 1001


class ValidatingEngine(FakeEngine):
    """Refuses what the real engine refuses before a step."""

    def submit(self, request: Request) -> Any:
        validate(request, CONFIG, self.info, has_tokenizer=True)
        if request.sampling.bad_words == ("no such word",):
            raise FieldError("bad_words", "the bad word 'no such word' has no tokens")
        return FakeEngine.submit(self, request)


APP = make_app(ValidatingEngine(max_model_len=64), max_n=100)

BAD: list[tuple[dict[str, Any], str]] = [
    ({"stop": LONG}, "stop"),
    ({"stop": ["a", LONG]}, "stop"),
    ({"bad_words": [LONG]}, "bad_words"),
    ({"bad_words": ["a"] * 129}, "bad_words"),
    ({"bad_words": ["no such word"]}, "bad_words"),
    ({"bad_words": [""]}, "bad_words"),
    ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"logit_bias": {"500": 1}}, "logit_bias"),
    ({"stop_token_ids": [500]}, "stop_token_ids"),
    ({"allowed_token_ids": [500]}, "allowed_token_ids"),
    ({"min_tokens": 60, "max_tokens": None}, "min_tokens"),
    ({"min_tokens": 9, "max_tokens": 5}, "min_tokens"),
    ({"n": 9}, "n"),
    ({"n": 101}, "n"),
    ({"n": 2, "best_of": 3}, "best_of"),
    ({"max_tokens": 64}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"temperature": -1}, "temperature"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 2}, "min_p"),
    ({"seed": 2**63}, "seed"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"frequency_penalty": 3}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"prompt_logprobs": 21}, "prompt_logprobs"),
    ({"request_id": "a b"}, "request_id"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "param"), BAD)
def test_param_is_the_true_field(bad: dict[str, Any], param: str) -> None:
    for path, good in (
        (COMPLETION, {"prompt": "aaaaaaa"}),
        (CHAT, {"messages": [{"role": "user", "content": "a"}]}),
    ):
        answer = post(APP, path, good | bad)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == param
        streamed = post(APP, path, good | bad | {"stream": True})
        if param != "prompt_logprobs":
            assert streamed.json() == answer.json()


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (COMPLETION, {"prompt": "a" * 64}, "prompt"),
        (COMPLETION, {"prompt": "a" * 64, "max_tokens": 5}, "prompt"),
        (COMPLETION, {"prompt": [500]}, "prompt"),
        (COMPLETION, {"prompt": "a", "logprobs": 21}, "logprobs"),
        (CHAT, {"messages": [{"role": "user", "content": "a" * 64}]}, "messages"),
        (CHAT, {"messages": [{"role": "user", "content": "a"}], "max_completion_tokens": 99},
         "max_completion_tokens"),
        (CHAT, {"messages": [{"role": "user", "content": "a"}], "logprobs": True,
                "top_logprobs": 21}, "top_logprobs"),
    ],
)  # fmt: skip
def test_param_is_what_the_route_calls_it(path: str, body: dict[str, Any], param: str) -> None:
    answer = post(APP, path, body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [(COMPLETION, {"prompt": [5]}, "prompt"),
     (CHAT, {"messages": [{"role": "user", "content": "a"}]}, "messages")],
)  # fmt: skip
@pytest.mark.parametrize("field", ["prompt_token_ids", "adapter", "logprobs", "min_p"])
def test_fields_of_the_engine_have_their_wire_names(
    path: str, body: dict[str, Any], param: str, field: str
) -> None:
    class Refusing(FakeEngine):
        def submit(self, request: Request) -> Any:
            raise FieldError(field, "refused")

    error = post(make_app(Refusing()), path, body).json()["error"]
    chat = {"prompt_token_ids": param, "adapter": "model"}
    chat |= {"logprobs": "top_logprobs"} if path == CHAT else {}
    assert (error["param"], error["message"]) == (chat.get(field, field), "refused")


FORBIDDEN: Finish = replace(STOP, reason=FinishReason.IMPOSSIBLE, error="forbid all of them")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"allowed_token_ids": [5], "bad_words": ["a"]}, "allowed_token_ids"),
        ({"logit_bias": {"5": -100}, "bad_words": ["a"]}, "logit_bias"),
        ({"bad_words": ["a"]}, "bad_words"),
    ],
)
def test_what_leaves_no_token_is_named_when_a_token_is_due(
    body: dict[str, Any], param: str
) -> None:
    app = make_app(FakeEngine(ends={0: FORBIDDEN}))
    error = post(app, COMPLETION, {"prompt": "a"} | body).json()["error"]
    assert (error["param"], error["message"]) == (param, "forbid all of them")
    *_, event, done = events(post(app, COMPLETION, {"prompt": "a", "stream": True} | body))
    assert (event["error"]["param"], done) == (param, "[DONE]")
