"""Conversations that other servers and clients wrote are read back, tool calls and thoughts too."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import httpx
import pytest

from flaxen.server.app import create_app
from flaxen.server.config import ServerConfig
from flaxen.text.chat import ChatTemplate
from tests.server.clients import post
from tests.server.fakes import FakeEngine, byte_tokenizer

CHAT = "/v1/chat/completions"
SHOWS_CALLS = (
    "{% for m in messages %}[{{ m.role }}]"
    "{% if m.reasoning_content %}<{{ m.reasoning_content }}|{{ m.reasoning }}>{% endif %}"
    "{{ m.content or '' }}{% for c in m.tool_calls or [] %}"
    "{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}"
    "{{ m.tool_call_id }}{% endfor %}"
)
HI = {"role": "user", "content": "Hi"}


class Server:
    """An application with a chat template, and the engine behind it."""

    def __init__(self, template: str) -> None:
        self.engine = FakeEngine()
        self.app = create_app(self.engine, byte_tokenizer(template), ServerConfig())

    def ask(self, *messages: dict[str, Any]) -> httpx.Response:
        return post(self.app, CHAT, {"messages": list(messages), "max_tokens": 1})

    def prompt(self, *messages: dict[str, Any]) -> str:
        """What the template makes of the messages."""
        answer = self.ask(*messages)
        assert answer.status_code == 200, answer.text
        return bytes(self.engine.requests[-1].prompt_token_ids).decode()

    def error(self, *messages: dict[str, Any]) -> dict[str, Any]:
        answer = self.ask(*messages)
        assert answer.status_code == 400, answer.text
        error: dict[str, Any] = answer.json()["error"]
        return error


@pytest.fixture(scope="module")
def server() -> Server:
    return Server(SHOWS_CALLS)


@pytest.mark.parametrize(
    "extra",
    [
        {"type": "text"},  # lm-eval's chats
        {"type": "message", "id": "msg_1"},  # items of the Responses API
        {"provider_specific_fields": {"refusal": None}, "annotations": []},  # LiteLLM's answers
        {"thinking_blocks": [{"type": "thinking", "thinking": "a"}]},
        {"reasoning_details": [{"type": "reasoning.text", "text": "a", "index": 0}]},
        {"prefix": False, "partial": False, "logprobs": None, "parsed": None},
    ],
    ids=str,
)
def test_notes_of_others_beside_a_message_are_left_out(
    server: Server, extra: dict[str, Any]
) -> None:
    assert (
        server.prompt(HI, {"role": "assistant", "content": "a"} | extra) == "[user]Hi[assistant]a"
    )


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": "a", "id": "lc_1", "index": 0, "logprobs": None},
        {"type": "text", "text": "a", "annotations": [], "citations": None, "index": 1.0},
        {"type": "input_text", "text": "a"},
        {"type": "output_text", "text": "a", "annotations": [], "logprobs": []},
        {"type": "refusal", "refusal": "a"},
    ],
    ids=str,
)
def test_parts_of_others_are_text(server: Server, part: dict[str, Any]) -> None:
    assert server.prompt({"role": "assistant", "content": [part]}) == "[assistant]a"


@pytest.mark.parametrize("index", [True, "0", 0.5])
def test_a_parts_index_is_a_whole_number(server: Server, index: Any) -> None:
    part = {"type": "text", "text": "a", "index": index}
    error = server.error({"role": "assistant", "content": [part]})
    assert error["param"] == "messages[0].content[0].index"
    assert "must be a whole number" in error["message"]


def test_a_part_without_the_field_of_its_type_is_refused(server: Server) -> None:
    error = server.error({"role": "assistant", "content": [{"type": "refusal", "text": "a"}]})
    assert error["param"] == "messages[0].content[0]"
    assert "must hold type and refusal (a string)" in error["message"]


@pytest.mark.parametrize(
    "thoughts",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"reasoning": "hm", "reasoning_content": "hm"},
        {"reasoning": "hm", "reasoning_content": None},
    ],
    ids=str,
)
def test_an_assistants_thoughts_go_to_the_template_by_both_names(
    server: Server, thoughts: dict[str, Any]
) -> None:
    assert server.prompt({"role": "assistant", "content": "a"} | thoughts) == "[assistant]<hm|hm>a"


def test_a_template_may_leave_thoughts_out() -> None:
    answer = {"role": "assistant", "content": "a", "reasoning_content": "hm"}
    assert Server("{{ messages[0].content }}").prompt(answer) == "a"


def call(arguments: Any) -> dict[str, Any]:
    function = {"name": "weather", "arguments": arguments}
    calls = [{"id": "1", "type": "function", "function": function}]
    return {"role": "assistant", "content": None, "tool_calls": calls}


SUNNY = {"role": "tool", "tool_call_id": "1", "content": "sunny"}


@pytest.mark.parametrize("arguments", ['{"city": "SF"}', {"city": "SF"}])
@pytest.mark.parametrize("content", ["sunny", [{"type": "text", "text": "sunny"}]])
def test_tool_calls_are_rendered_as_in_training(
    server: Server, arguments: Any, content: Any
) -> None:
    messages = [HI, call(arguments), SUNNY | {"content": content}]
    with closing(ChatTemplate(SHOWS_CALLS, bos_token="<s>", eos_token="</s>")) as template:
        trained = template.render(messages)
    assert trained == '[user]Hi[assistant]weather{"city": "SF"}[tool]sunny1'
    assert server.prompt(*messages) == trained


@pytest.mark.parametrize("arguments", ["", None, "{}"])
def test_a_call_may_have_no_arguments(server: Server, arguments: Any) -> None:
    assert server.prompt(HI, call(arguments)) == "[user]Hi[assistant]weather{}"


@pytest.mark.parametrize(
    ("message", "param", "code", "why"),
    [
        (call("{"), "tool_calls", "invalid_value", "arguments is not valid JSON"),
        (call("[1]"), "tool_calls", "invalid_value", "arguments must be a JSON object"),
        (call('{"a": "\\ud800"}'), "tool_calls", "invalid_value", "half of a surrogate pair"),
        (call('{"a":' * 5000), "tool_calls", "invalid_value", "nested too deeply"),
        ({"role": "assistant", "tool_calls": [{}]}, "tool_calls", "invalid_value", "with a name"),
        ({"role": "assistant", "tool_calls": {"a": 1}}, "tool_calls", "invalid_value", "a list"),
        (HI | {"tool_calls": [1]}, "tool_calls", "unsupported_parameter", "role 'assistant'"),
        (HI | {"tool_call_id": "1"}, "tool_call_id", "unsupported_parameter", "role 'tool'"),
        (SUNNY | {"tool_call_id": 1}, "tool_call_id", "invalid_type", "must be a string, got 1"),
        (SUNNY | {"content": None}, "content", "invalid_type", "got None"),
        (call("{}") | {"function_call": {"name": "f"}}, "function_call", "unsupported_parameter",
         "replaced by tool_calls"),
        (HI | {"reasoning": "a"}, "reasoning", "unsupported_parameter", "role 'assistant'"),
        (HI | {"role": "assistant", "reasoning_content": ["a"]}, "reasoning_content",
         "invalid_type", "must be a string"),
        (HI | {"prefix": True}, "prefix", "unsupported_parameter", "continues the last message"),
        (HI | {"partial": True}, "partial", "unsupported_parameter", "continues the last message"),
        (HI | {"type": "function_call"}, "type", "unsupported_parameter", "no other type"),
        (HI | {"id": 1}, "id", "unsupported_parameter", "must be a string"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    server: Server, message: dict[str, Any], param: str, code: str, why: str
) -> None:
    role_first = {"tool_call_id": None} if param == "role" else {}
    error = server.error(HI, message | role_first)
    assert (error["param"], error["code"]) == (f"messages[1].{param}", code), error
    assert why in error["message"]


def test_a_template_that_shows_no_calls_gets_them_as_texts() -> None:
    prompt = Server("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}").prompt(
        HI, call('{"city": "SF"}') | {"content": "I look."}, SUNNY
    )
    assert prompt == (
        "[user]Hi[assistant]I look.\n<tool_call>\n"
        '{"name": "weather", "arguments": {"city": "SF"}}\n</tool_call>'
        "[user]<tool_response>\nsunny\n</tool_response>"
    )
