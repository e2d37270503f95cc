"""Whatever a client sends, the server answers in order: never a 5xx, never with a stray error.

What reads a body is tried with hundreds, as the functions that it is; tens go through HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flaxen.server.body import decode_json
from flaxen.server.config import ServerConfig
from flaxen.server.context import Context
from flaxen.server.error_answers import error_body
from flaxen.server.errors import ApiError
from flaxen.server.generation import fields_without_effect as no_effect
from flaxen.server.generation.bodies import (
    ChatBody,
    CommonBody,
    CompletionBody,
    DetokenizeBody,
    TokenizeBody,
    parse_two,
)
from flaxen.server.generation.messages import read_messages
from flaxen.server.generation.sampling_fields import (
    check_logprobs,
    check_token_ids,
    sampling_params,
    stream_options,
)
from flaxen.server.generation.structured_fields import read_structure
from flaxen.server.generation.tools import read_tools
from flaxen.server.metrics import Metrics
from flaxen.server.schema import parse
from flaxen.structured import GrammarCompiler
from tests.server.clients import events, make_app, post
from tests.server.fakes import END, VOCAB_SIZE, FakeEngine, byte_tokenizer

ENGINE = FakeEngine(max_model_len=40)
APP = make_app(ENGINE)
CONTEXT = Context(
    engine=ENGINE,
    tokenizer=byte_tokenizer(),
    chat_template=None,
    config=ServerConfig(),
    metrics=Metrics(ENGINE, "m"),
    grammars=GrammarCompiler(byte_tokenizer(), VOCAB_SIZE, (END,)),
)

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
parts = st.fixed_dictionaries({"type": st.just("text"), "text": odd_text}, optional={"x": values})
messages = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant", "system", "tool"]),
            "content": values | odd_text | st.lists(parts, max_size=2),
        },
        optional={"name": leaves, "tool_calls": leaves, "reasoning_content": leaves},
    ),
    max_size=3,
)
NAMES = sorted(
    {name for body in (CommonBody, CompletionBody, ChatBody, TokenizeBody, DetokenizeBody)
     for name in body.model_fields} | {"tools", "store", "suffix", "priority", "documents", "x"}
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
        "response_format": st.fixed_dictionaries(
            {
                "type": st.sampled_from(
                    ["text", "json_object", "json_schema", "structural_tag", "x"]
                )
            },
            optional={"json_schema": st.fixed_dictionaries({}, optional={"schema": values})},
        ),
        "structured_outputs": st.dictionaries(
            st.sampled_from(["json", "regex", "choice", "grammar", "x"]), values, max_size=2
        ),
    },
)
bodies = st.builds(
    lambda near, odd: near | odd,
    likely,
    st.dictionaries(st.sampled_from(NAMES), values, max_size=2),
)
paths = st.sampled_from(["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"])


@settings(max_examples=400)
@given(path=paths, body=bodies)
def test_any_fields(path: str, body: dict[str, Any]) -> None:
    """What reads the fields gives what it is to give, or the client's error: nothing else."""
    check_error(lambda: read_fields(path, body))


@settings(max_examples=400)
@given(body=st.binary(max_size=60) | values.map(lambda v: json.dumps(v).encode()))
def test_any_body(body: bytes) -> None:
    check_error(lambda: json.dumps(decode_json(body), ensure_ascii=False).encode())


@settings(max_examples=50)
@given(path=paths, body=bodies)
def test_any_json(path: str, body: dict[str, Any]) -> None:
    check(path, json.dumps(body).encode())


@settings(max_examples=25)
@given(path=paths, body=st.binary(max_size=60) | values.map(lambda v: json.dumps(v).encode()))
def test_any_bytes(path: str, body: bytes) -> None:
    check(path, body)


def read_fields(path: str, fields: dict[str, Any]) -> None:
    """All that a route does with its fields before it needs a tokenizer or the engine."""
    if path == "/detokenize":
        check_token_ids(parse(DetokenizeBody, fields).tokens, 258, "tokens")
    elif path == "/tokenize":
        tokenize = parse(TokenizeBody, no_effect.drop(fields, no_effect.TOKENIZE))
        read_messages(tokenize.messages or [{"role": "user", "content": "a"}])
    elif path == "/v1/completions":
        body, common = parse_two(
            CompletionBody, no_effect.drop_from_body(fields, no_effect.COMPLETION)
        )
        read_common(common, logprobs=body.logprobs, max_tokens=body.max_tokens)
    else:
        chat, common = parse_two(ChatBody, no_effect.drop_from_body(fields, no_effect.CHAT))
        read_messages(chat.messages)
        read_tools(chat.tools, chat.tool_choice, parallel_tool_calls=chat.parallel_tool_calls)
        read_common(common, logprobs=chat.top_logprobs, max_tokens=chat.max_completion_tokens)


def read_common(common: CommonBody, *, logprobs: int | None, max_tokens: int | None) -> None:
    stream_options(common)
    read_structure(common)
    check_logprobs(logprobs, "logprobs", CONTEXT)
    check_logprobs(common.prompt_logprobs, "prompt_logprobs", CONTEXT)
    sampling = sampling_params(
        common,
        CONTEXT,
        max_tokens=min(max(max_tokens or 1, 1), 40),
        logprobs=logprobs,
        prompt_logprobs=common.prompt_logprobs,
    )
    given = {name: getattr(common, name) for name in ("n", "temperature", "top_p", "seed")}
    kept = {name: getattr(sampling, name) for name in given}
    assert kept == {name: kept[name] if value is None else value for name, value in given.items()}


def check_error(read: Callable[[], object]) -> None:
    error = error_of(read)
    if error is not None:
        assert error.status in (400, 404)
        assert error.message
        assert error.code
        assert error.type == "invalid_request_error"
        assert error.param is None or isinstance(error.param, str)
        json.dumps(error_body(error)).encode()


def error_of(read: Callable[[], object]) -> ApiError | None:
    try:
        read()
    except ApiError as error:
        return error
    return None


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
