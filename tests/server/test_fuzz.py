"""Whatever a client sends, the server answers in order: never a 5xx, never with a stray error."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flaxen.server.schema import ChatBody, CommonBody, CompletionBody, DetokenizeBody, TokenizeBody
from tests.server.clients import events, make_app, post
from tests.server.fakes import FakeEngine

APP = make_app(FakeEngine(max_model_len=40))

odd_text = st.text(max_size=8) | st.sampled_from(
    ["\ud800", "\x00", "refuse", "é", "\u2028", "</s>"]
)
odd_numbers = st.sampled_from([-1, 0, 1, 2, 2**31, 2**63, -(2**63), 10**30, 1e308, 1e-320, -0.0])
leaves = st.none() | st.booleans() | st.integers(-3, 300) | odd_numbers | st.floats() | odd_text
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(odd_text, inner, max_size=3),
    max_leaves=8,
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": values}
    ),
    max_size=3,
)
NAMES = sorted(
    {name for body in (CommonBody, CompletionBody, ChatBody, TokenizeBody, DetokenizeBody)
     for name in body.model_fields} | {"tools", "store", "suffix", "x"}
)  # fmt: skip
# Mostly near the truth: a body of odd values only rarely gets past its first field.
likely = st.fixed_dictionaries(
    {},
    optional={
        "prompt": odd_text | st.lists(st.integers(-1, 260), max_size=4) | st.lists(odd_text),
        "messages": messages,
        "tokens": st.lists(st.integers(0, 257), max_size=5),
        "max_tokens": st.integers(0, 50),
        "n": st.integers(0, 3),
        "stream": st.booleans(),
        "echo": st.booleans(),
        "logprobs": st.booleans() | st.integers(0, 3),
        "top_logprobs": st.integers(0, 3),
        "prompt_logprobs": st.integers(0, 3),
        "stop": odd_text | st.lists(odd_text, max_size=3),
        "logit_bias": st.dictionaries(st.integers(-1, 300).map(str), leaves, max_size=2),
        "stream_options": st.dictionaries(
            st.sampled_from(["include_usage", "continuous_usage_stats", "x"]), leaves, max_size=2
        ),
        "return_token_ids": st.booleans(),
        "chat_template_kwargs": st.dictionaries(odd_text, values, max_size=2),
    },
)
bodies = st.builds(
    lambda near, odd: near | odd,
    likely,
    st.dictionaries(st.sampled_from(NAMES), values, max_size=2),
)
paths = st.sampled_from(["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"])


def check(path: str, body: bytes) -> None:
    answer = post(APP, path, body)
    if answer.headers["content-type"].startswith("text/event-stream"):
        *chunks, done = events(answer)
        assert done == "[DONE]"
        assert all("error" not in chunk for chunk in chunks), chunks
        return
    assert answer.status_code in (200, 400, 404), answer.text
    content: dict[str, Any] = answer.json()
    if answer.status_code != 200:
        assert set(content["error"]) == {"message", "type", "param", "code"}
        assert content["error"]["message"]


@settings(max_examples=300)
@given(path=paths, body=bodies)
def test_any_json(path: str, body: dict[str, Any]) -> None:
    check(path, json.dumps(body).encode())


@settings(max_examples=100)
@given(path=paths, body=st.binary(max_size=60) | values.map(lambda v: json.dumps(v).encode()))
def test_any_bytes(path: str, body: bytes) -> None:
    check(path, body)
