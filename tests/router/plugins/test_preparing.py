"""What plugins make of a request: only what they name changes, in the body of each API."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from flaxen.router.plugins.answers.streams import whole_answer
from flaxen.router.plugins.cache_key import Source, key_of
from flaxen.router.plugins.cache_settings import ResponseCache
from flaxen.router.plugins.fast_response import FastResponse
from flaxen.router.plugins.guards import Pii
from flaxen.router.plugins.header_mutation import Header, HeaderMutation
from flaxen.router.plugins.preparing import Asked, Prepared, prepare
from flaxen.router.plugins.request_params import RequestParams
from flaxen.router.plugins.shadow import ShadowDispatch, shadow_body
from flaxen.router.plugins.system_prompt import SystemPrompt
from flaxen.router.plugins.tools import Tools
from flaxen.router.requests.readers import READERS, read_request
from flaxen.router.signals.found import Entity, Found

Body = dict[str, Any]
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("a", "b")]
CALL = {"id": "c", "type": "function", "function": {"name": "a", "arguments": '{"to": "x@y.z"}'}}
BODIES: dict[str, Body] = {
    "chat": {
        "model": "auto",
        "messages": [
            {"role": "system", "content": "old"},
            {"role": "user", "content": [{"type": "text", "text": "I am x@y.z"}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c", "content": "sent"},
            {"role": "user", "content": "again"},
        ],
        "tools": TOOLS,
        "tool_choice": {"type": "function", "function": {"name": "a"}},
        "max_completion_tokens": 100,
        "n": 3,
        "temperature": 0.5,
        "own": 1,
    },
    "completions": {"model": "auto", "prompt": ["x@y.z", "b"], "max_tokens": 100, "own": 1},
    "responses": {
        "model": "auto",
        "instructions": "old",
        "input": [
            {"role": "user", "content": "I am x@y.z"},
            {"type": "function_call", "call_id": "c", "name": "a", "arguments": "x@y.z"},
            {"type": "function_call_output", "call_id": "c", "output": "sent"},
            {"role": "user", "content": "again"},
        ],
        "tools": [{"type": "function", "name": name} for name in ("a", "b")],
        "tool_choice": {"type": "function", "name": "a"},
        "max_output_tokens": 100,
        "own": 1,
    },
    "messages": {
        "model": "auto",
        "system": [{"type": "text", "text": "old"}],
        "messages": [
            {"role": "user", "content": "I am x@y.z"},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "c", "name": "a", "input": {"to": "x@y.z"}}],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c", "content": "sent"},
                    {"type": "text", "text": "again"},
                ],
            },
        ],
        "tools": [{"name": name} for name in ("a", "b")],
        "tool_choice": {"type": "tool", "name": "a"},
        "max_tokens": 100,
        "own": 1,
    },
    "embeddings": {"model": "auto", "input": "x@y.z", "own": 1},
}
LIMIT = {"chat": "max_completion_tokens", "responses": "max_output_tokens"}
WITH_TOOLS = ("chat", "responses", "messages")
EMAIL = Found(matched=True, entities=(Entity("EMAIL_ADDRESS", "x@y.z"),))


def seen(**found: Found) -> Asked:
    return Asked(
        request_id="r1", now=5.0, found={(kind, "p"): each for kind, each in found.items()}
    )


def prepared(
    api: str, *plugins: object, body: Body | None = None, asked: Asked | None = None
) -> Prepared:
    """The request after plugins, which have left the client's body as it was."""
    body = BODIES[api] if body is None else body
    before = copy.deepcopy(body)
    result = prepare(body, api, plugins, asked or seen())
    assert body == before
    return result


def changed(api: str, *plugins: object) -> Body:
    """The fields that plugins changed; None for those that are gone."""
    before, result = BODIES[api], prepared(api, *plugins)
    assert result.reply is None
    names = before.keys() | result.body.keys()
    return {k: result.body.get(k) for k in names if result.body.get(k) != before.get(k)}


@pytest.mark.parametrize("api", READERS)
def test_plugins_that_do_nothing_change_nothing(api: str) -> None:
    idle = (
        SystemPrompt(system_prompt="p", enabled=False),
        Tools(),
        RequestParams(),
        HeaderMutation(),
        ResponseCache(enabled=False),
        ShadowDispatch(enabled=False),
        object(),  # a plugin of another room
    )
    assert prepared(api, *idle) == Prepared(body=BODIES[api])
    assert prepared(api) == Prepared(body=BODIES[api])


@pytest.mark.parametrize("api", READERS)
@pytest.mark.parametrize("mode", ["insert", "replace"])
def test_a_system_prompt_is_the_first_thing_that_a_model_reads(api: str, mode: Any) -> None:
    found = changed(api, SystemPrompt(system_prompt="new", mode=mode))
    kept = " old" if mode == "insert" else ""
    match api:
        case "embeddings":
            assert found == {}
            return
        case "completions":
            assert found == {"prompt": ["new\n\nx@y.z", "new\n\nb"]}
            return
        case "chat":
            assert found["messages"][1:] == BODIES["chat"]["messages"][1:]
    assert found.keys() == {{"chat": "messages", "responses": "instructions"}.get(api, "system")}
    system = read_request(api, BODIES[api] | found).messages[0]
    assert (system.role, " ".join(system.text.split())) == ("system", f"new{kept}")


def test_a_system_prompt_where_there_is_none() -> None:
    plugin = SystemPrompt(system_prompt="new")
    user = {"role": "user", "content": "a"}
    system = {"role": "system", "content": "new"}
    for api, body, expected in (
        ("chat", {"messages": [user]}, {"messages": [system, user]}),
        ("embeddings", {"messages": [user]}, {"messages": [system, user]}),
        ("messages", {"messages": [user]}, {"messages": [user], "system": "new"}),
        ("responses", {"input": "a"}, {"input": "a", "instructions": "new"}),
        ("completions", {"prompt": "a"}, {"prompt": "new\n\na"}),
    ):
        assert prepared(api, plugin, body=body).body == expected
    refused = prepared("completions", plugin, body={"prompt": [1, 2]}).reply
    assert refused is not None
    assert refused.status == 400
    assert b"token ids" in refused.body


@pytest.mark.parametrize("api", READERS)
def test_limits_of_parameters(api: str) -> None:
    field = LIMIT.get(api, "max_tokens")
    limited = {} if api == "embeddings" else {field: 10}
    assert changed(api, RequestParams(max_tokens_limit=10)) == limited
    assert changed(api, RequestParams(max_tokens_limit=1000, default_max_tokens=5)) == {}
    without = {k: v for k, v in BODIES[api].items() if k != field}
    for plugin, number in (
        (RequestParams(default_max_tokens=50), 50),
        (RequestParams(default_max_tokens=50, max_tokens_limit=10), 10),
        (RequestParams(max_tokens_limit=10), 10),
        (RequestParams(default_max_tokens="auto"), None),
    ):
        name = field if api != "chat" else "max_tokens"
        set_to = {} if number is None or api == "embeddings" else {name: number}
        assert prepared(api, plugin, body=without).body == without | set_to
    assert changed(api, RequestParams(strip_unknown=True)) == {"own": None}
    assert changed(api, RequestParams(blocked_params=("own", "absent"))) == {"own": None}


def test_numbers_of_answers() -> None:
    assert changed("chat", RequestParams(max_n=2)) == {"n": 2}
    body = {"prompt": "a", "n": 2.5, "best_of": 9}
    assert prepared("completions", RequestParams(max_n=4), body=body).body == {
        "prompt": "a",
        "best_of": 4,
    }
    with pytest.raises(ValueError, match="'model', without which none is answered"):
        RequestParams(blocked_params=("model",))


@pytest.mark.parametrize("api", WITH_TOOLS)
def test_tools(api: str) -> None:
    one, other = BODIES[api]["tools"]
    assert changed(api, Tools(mode="filtered", allow_tools=("a",))) == {"tools": [one]}
    gone = {"tools": [other], "tool_choice": None}
    assert changed(api, Tools(mode="filtered", block_tools=("a",))) == gone
    none = {"tools": None, "tool_choice": None}
    assert changed(api, Tools(mode="filtered", block_tools=("a", "b"))) == none
    assert changed(api, Tools(mode="none")) == none
    stripped = prepared(api, Tools(mode="none", strip_tool_history=True)).body
    read = read_request(api, stripped)
    assert not read.tools
    assert not any(m.tool_calls or m.role == "tool" for m in read.messages)
    texts = [m.text for m in read_request(api, BODIES[api]).messages if m.role != "tool" and m.text]
    assert [m.text for m in read.messages] == texts


def test_allowed_tools_are_filtered() -> None:
    tools = {"tools": TOOLS, "mode": "auto"}
    body = {"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "allowed_tools": tools}}
    plugin = Tools(mode="filtered", block_tools=("b",))
    hosted = {"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}}
    assert "tool_choice" not in prepared("responses", plugin, body=hosted | {"tools": []}).body
    assert prepared("responses", plugin, body=hosted).body == hosted
    named = Tools(mode="filtered", block_tools=("web_search",))
    assert prepared("responses", named, body=hosted | {"tools": TOOLS}).body == {"tools": TOOLS}
    left = {"type": "allowed_tools", "allowed_tools": {"tools": TOOLS[:1], "mode": "auto"}}
    assert prepared("chat", plugin, body=body).body["tool_choice"] == left
    auto = {"tools": [{"name": "a"}], "tool_choice": {"type": "auto"}}
    assert prepared("messages", plugin, body=auto).body == auto


@pytest.mark.parametrize("api", READERS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_fast_response(api: str, stream: bool) -> None:
    reply = prepared(api, FastResponse(message="hi"), body=BODIES[api] | {"stream": stream}).reply
    assert reply is not None
    if api == "embeddings":
        assert reply.status == 400
        return
    assert reply.headers["x-vsr-fast-response"] == "true"
    assert reply.media_type == ("text/event-stream" if stream else "application/json")
    if api in ("chat", "completions"):  # usage only if a stream's client asks for it
        assert (b'"usage"' in reply.body) is not stream
    answer = whole_answer(api, reply.body, is_stream=stream)
    assert answer is not None
    assert answer["model"] == "auto"
    assert '"hi"' in json.dumps(answer)


def test_headers() -> None:
    plugin = HeaderMutation(
        add=(Header(name="X-New", value="1"),),
        update=(Header(name="x-old", value="2"),),
        delete=("X-Gone",),
    )
    headers = {"x-old": "1", "x-gone": "1", "x-kept": "1"}
    applied = prepared("chat", plugin).headers.applied(headers)
    assert applied == {"x-new": "1", "x-old": "2", "x-kept": "1"}
    assert prepared("chat").headers.applied(headers) == headers
    with pytest.raises(ValueError, match="the router itself sets"):
        HeaderMutation(delete=("Content-Length",))
    with pytest.raises(ValueError, match="one line"):
        Header(name="a", value="b\r\nc: d")


def test_a_shadow_takes_its_share_by_the_request_id() -> None:
    half = ShadowDispatch(enabled=True, model="m", sample_rate=0.5)
    taken = [half.takes(str(index)) for index in range(4000)]
    assert taken == [half.takes(str(index)) for index in range(4000)]
    assert 1850 < sum(taken) < 2150
    assert ShadowDispatch(enabled=True, model="m").takes("r1")
    assert not ShadowDispatch(enabled=True, model="m", sample_rate=0).takes("r1")
    every = ShadowDispatch(enabled=True, model="m")
    assert prepared("chat", every).shadow == every
    body = {"model": "a", "input": "b", "stream": True, "store": True}
    assert shadow_body(body, every) == {"model": "m", "input": "b", "store": False}


def mutations(value: Any) -> Iterator[Any]:
    """A value with one thing changed, in each place below it, or something added."""
    if isinstance(value, dict):
        yield {**value, "added": 1}
        for name, below in value.items():
            yield {k: v for k, v in value.items() if k != name}
            yield from ({**value, name: each} for each in mutations(below))
    elif isinstance(value, list):
        yield [*value, "added"]
        for index, below in enumerate(value):
            yield value[:index] + value[index + 1 :]
            yield from ([*value[:index], each, *value[index + 1 :]] for each in mutations(below))
    else:
        yield from (f"{value}x", None if value is not None else 0, [value], {"a": value})


@pytest.mark.parametrize("api", READERS)
def test_whatever_a_router_can_read_can_be_prepared(api: str) -> None:
    """Strange values reach the model's server, which refuses them with its own words."""
    plugins = (
        SystemPrompt(system_prompt="new"),
        Tools(mode="none", strip_tool_history=True),
        RequestParams(max_tokens_limit=10, max_n=1, strip_unknown=True),
        Pii(rule="p", action="mask"),
    )
    filtered = Tools(mode="filtered", allow_tools=("a",))
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": TOOLS}}
    source, num_read = Source(recipe="r", decision="d", model="m"), 0
    for start in ({}, {"tool_choice": allowed}):
        body = BODIES[api] | {"stream": True, "stream_options": {"include_usage": True}} | start
        for strange in mutations(body):
            try:
                read_request(api, strange)
            except ValueError:
                continue
            num_read += 1
            for some in (plugins, (filtered,)):
                result = prepared(api, *some, body=strange, asked=seen(pii=EMAIL))
                key_of(ResponseCache(scope="global"), api, result.body, {}, source)
    assert num_read > 20


def test_the_order_of_plugins_does_not_count() -> None:
    plugins = [
        RequestParams(max_tokens_limit=10),
        SystemPrompt(system_prompt="new"),
        Tools(mode="none"),
        Pii(rule="p", action="mask"),
    ]
    for api in READERS:
        result = prepared(api, *plugins, asked=seen(pii=EMAIL))
        assert prepared(api, *reversed(plugins), asked=seen(pii=EMAIL)) == result
        assert "x@y.z" not in json.dumps(result.body)
