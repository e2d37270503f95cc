"""Tools and reasoning of /v1/chat/completions, against answers that are written by hand."""

from __future__ import annotations

import json
from array import array
from typing import Any

import pytest

from flaxen.server.app import create_app
from flaxen.server.config import ServerConfig
from tests.server.clients import events, openai_client, post, run
from tests.server.fakes import END, FakeEngine, byte_tokenizer

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hi"}]
SHOWS_TOOLS = (
    "{% for t in tools or [] %}{{ t.function.name }} {% endfor %}"
    "{% for d in documents or [] %}{{ d.text }} {% endfor %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% for c in m.tool_calls or [] %}"
    "{{ c.function.name }}{% endfor %}{% endfor %}{{ reasoning_effort }}{{ enable_thinking }}"
)  # no marker of a format: hermes is taken


def tool(name: str = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


class Server:
    """An application whose model says one text, and the engine behind it."""

    def __init__(self, says: str = "", template: str = SHOWS_TOOLS, **config: Any) -> None:
        self.engine = FakeEngine(says=lambda request, index: [*says.encode(), END])
        self.app = create_app(self.engine, byte_tokenizer(template), ServerConfig(**config))

    def choice(self, **body: Any) -> dict[str, Any]:
        answer = post(self.app, CHAT, {"messages": HELLO, **body})
        assert answer.status_code == 200, answer.text
        [choice] = answer.json()["choices"]
        assert isinstance(choice, dict)
        return choice

    def deltas(self, **body: Any) -> list[dict[str, Any]]:
        *chunks, done = events(post(self.app, CHAT, {"messages": HELLO, "stream": True, **body}))
        assert done == "[DONE]"
        return [chunk["choices"][0] for chunk in chunks if chunk["choices"]]

    def error(self, **body: Any) -> dict[str, Any]:
        answer = post(self.app, CHAT, {"messages": HELLO, **body})
        assert answer.status_code == 400, answer.text
        error: dict[str, Any] = answer.json()["error"]
        return error

    def prompt(self, **body: Any) -> str:
        self.choice(max_tokens=1, **body)
        return bytes(self.engine.requests[-1].prompt_token_ids).decode()


CALLS = (
    'I look.\n<tool_call>{"name": "f", "arguments": {"a": "é"}}</tool_call>\n'
    '<tool_call>{"name": "g", "arguments": {}}</tool_call>'
)
TOOLS = [tool("f"), tool("g")]


def test_calls_are_in_the_message() -> None:
    choice = Server(CALLS).choice(tools=TOOLS)
    message = choice["message"]
    assert (message["content"], choice["finish_reason"]) == ("I look.", "tool_calls")
    first, second = message["tool_calls"]
    assert first["id"].startswith("call_")
    assert first["id"] != second["id"]
    assert set(first) == {"id", "type", "function"}
    assert first["function"] == {"name": "f", "arguments": '{"a": "é"}'}
    assert second["function"] == {"name": "g", "arguments": "{}"}


def test_a_message_of_calls_alone_has_no_content() -> None:
    message = Server(CALLS.partition("\n")[2]).choice(tools=TOOLS)["message"]
    assert (message["content"], len(message["tool_calls"])) == (None, 2)


def test_deltas_are_openais() -> None:
    chunks = Server(CALLS).deltas(tools=TOOLS)
    deltas = [chunk["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    ids = [call.pop("id") for call in calls if "id" in call]
    assert len(set(ids)) == 2
    assert calls == [
        {"index": 0, "type": "function", "function": {"name": "f", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"a": "é"}'}},
        {"index": 1, "type": "function", "function": {"name": "g", "arguments": ""}},
        {"index": 1, "function": {"arguments": "{}"}},
    ]
    assert "".join(delta.get("content", "") for delta in deltas) == "I look."
    reasons = [chunk["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["tool_calls"]


def test_the_official_client_puts_the_stream_together() -> None:
    async def work() -> Any:
        async with openai_client(Server(CALLS).app) as client:
            manager = client.chat.completions.stream(
                model="fake/model", messages=HELLO, tools=TOOLS, max_tokens=200
            )
            async with manager as stream:
                return (await stream.get_final_completion()).choices[0]

    choice = run(work())
    assert choice.finish_reason == "tool_calls"
    assert [(c.function.name, c.function.arguments) for c in choice.message.tool_calls] == [
        ("f", '{"a": "é"}'),
        ("g", "{}"),
    ]


def test_each_token_is_told_once_in_a_stream_with_calls() -> None:
    chunks = Server(CALLS).deltas(tools=TOOLS, logprobs=True, return_token_ids=True)
    told = [token for chunk in chunks for token in chunk.get("token_ids", ())]
    assert bytes(told[:-1]).decode() == CALLS
    entries = [e for chunk in chunks if chunk["logprobs"] for e in chunk["logprobs"]["content"]]
    assert len(entries) == len(told)


@pytest.mark.parametrize("length", [3, 30, 72, 90, 118])
def test_a_call_at_the_token_limit_is_text(length: int) -> None:
    server = Server(CALLS)
    choice = server.choice(tools=TOOLS, max_tokens=length)
    chunks = server.deltas(tools=TOOLS, max_tokens=length)
    assert choice["finish_reason"] == chunks[-1]["finish_reason"] == "length"
    content = "".join(chunk["delta"].get("content", "") for chunk in chunks)
    assert content == (choice["message"]["content"] or "")
    calls = choice["message"].get("tool_calls", [])
    streamed = sum("tool_calls" in chunk["delta"] for chunk in chunks)
    assert streamed == 2 * len(calls)
    if not calls:
        assert content.encode() == CALLS.encode()[:length].decode(errors="replace").encode()


def test_one_call_alone_where_no_parallel_ones_are_wanted() -> None:
    server = Server(CALLS)
    [call] = server.choice(tools=TOOLS, parallel_tool_calls=False)["message"]["tool_calls"]
    assert call["function"]["name"] == "f"
    deltas = [each["delta"] for each in server.deltas(tools=TOOLS, parallel_tool_calls=False)]
    assert sum("tool_calls" in delta for delta in deltas) == 2


@pytest.mark.parametrize("more", [{}, {"tools": TOOLS, "tool_choice": "none"}])
def test_without_tools_the_text_is_the_answer(more: dict[str, Any]) -> None:
    choice = Server(CALLS).choice(**more)
    assert (choice["message"]["content"], choice["finish_reason"]) == (CALLS, "stop")
    assert "tool_calls" not in choice["message"]


@pytest.mark.parametrize(
    ("choice", "shown"),
    [
        (None, "f g "),
        ("auto", "f g "),
        ("none", ""),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [tool("g")]}}, "g "),
    ],
)
def test_the_template_gets_the_tools_that_may_be_called(choice: Any, shown: str) -> None:
    assert Server().prompt(tools=TOOLS, tool_choice=choice) == f"{shown}[user]Hi"


def test_a_template_without_tools_gets_them_in_the_messages() -> None:
    server = Server(CALLS, "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}")
    prompt = server.prompt(tools=[tool("f", description="Does é.")])
    assert prompt.startswith("[system]You can call functions.")
    assert prompt.endswith("[user]Hi")
    assert '\n{"name": "f", "description": "Does é."}\n' in prompt
    system = {"role": "system", "content": "Be short."}
    prompt = server.prompt(tools=TOOLS, messages=[system, *HELLO])
    assert prompt.startswith("[system]Be short.\n\nYou can call functions.")
    assert len(server.choice(tools=TOOLS)["message"]["tool_calls"]) == 2


def test_documents_and_efforts_go_to_the_template() -> None:
    server = Server()
    assert server.prompt(documents=[{"text": "D"}]) == "D [user]Hi"
    assert server.prompt(reasoning_effort="high") == "[user]HihighTrue"
    assert server.prompt(reasoning_effort="none") == "[user]HinoneFalse"
    own = {"enable_thinking": "own"}
    assert server.prompt(reasoning_effort="low", chat_template_kwargs=own) == "[user]Hilowown"


def test_a_mark_of_the_cache_beside_a_tool_has_no_effect() -> None:
    marked = tool("f", cache_control={}) | {"cache_control": {"type": "ephemeral"}}
    assert Server().prompt(tools=[marked]) == "f [user]Hi"


def test_tokenize_counts_the_tools() -> None:
    body = {"messages": HELLO, "tools": TOOLS}
    assert post(Server().app, "/tokenize", body).json()["count"] == len("f g [user]Hi")


NAMED = {"type": "function", "function": {"name": "g"}}


@pytest.mark.parametrize(("choice", "names"), [("required", "fg"), (NAMED, "g")])
def test_an_answer_that_must_call_has_the_structure_of_calls(choice: Any, names: str) -> None:
    server = Server(CALLS)
    server.choice(tools=TOOLS, tool_choice=choice)
    structure = server.engine.requests[-1].sampling.structured_outputs
    assert structure is not None
    for name in "fg":
        assert (f'{{\\"name\\": \\"{name}\\"' in structure.text) == (name in names)
    server.choice(tools=TOOLS)
    assert server.engine.requests[-1].sampling.structured_outputs is None


def test_calls_that_are_no_json_are_asked_for_as_json() -> None:
    server = Server(CALLS, SHOWS_TOOLS + "{# <arg_key> #}")
    assert "tool_calls" not in server.choice(tools=TOOLS)["message"]  # in GLM's format it is text
    assert len(server.choice(tools=TOOLS, tool_choice="required")["message"]["tool_calls"]) == 2


def test_strict_tools_have_a_structure_whether_they_are_called_or_not() -> None:
    server = Server(CALLS)
    server.choice(tools=[tool("f", strict=True, parameters={"required": ["a"]}), tool("g")])
    structure = server.engine.requests[-1].sampling.structured_outputs
    assert structure is not None
    assert "triggered_tags" in structure.text


def test_described_tools_are_called_as_they_must_be_where_that_can_be_followed() -> None:
    server = Server(CALLS, "{% for m in messages %}{{ m.content }}{% endfor %}")
    followed = tool("f", parameters={"required": ["a"]})
    server.choice(tools=[followed])
    structure = server.engine.requests[-1].sampling.structured_outputs
    assert structure is not None
    assert "triggered_tags" in structure.text
    schema = {"properties": {"a": {"type": "array", "uniqueItems": True}}}
    server.choice(tools=[followed, tool("g", parameters=schema)])
    request = server.engine.requests[-1]
    assert (request.sampling.structured_outputs, request.grammar) == (None, None)
    strict = tool("g", parameters=schema, strict=True)
    assert server.error(tools=[followed, strict])["param"] == "tools"


def test_a_stream_goes_on_while_a_long_call_is_held_back() -> None:
    long = '<tool_call>{"name": "f", "arguments": {"a": "' + "x" * 200 + '"}}</tool_call>'
    deltas = [each["delta"] for each in Server(long).deltas(tools=TOOLS)]
    assert deltas.count({}) == len(long) // 64 + 1  # the last has the finish reason
    assert sum("tool_calls" in delta for delta in deltas) == 2


THINKS = "<think>\nThey greet.\n</think>\n\nHello."
REASONS = SHOWS_TOOLS + "{% if thinks %}<think></think>{% endif %}"


def test_reasoning_is_apart_from_the_content() -> None:
    server = Server(THINKS, REASONS)
    message = server.choice()["message"]
    assert message["content"] == "Hello."
    assert message["reasoning"] == message["reasoning_content"] == "They greet."
    deltas = [each["delta"] for each in server.deltas()]
    for name, text in (("content", "Hello."), ("reasoning", "They greet."),
                       ("reasoning_content", "They greet.")):  # fmt: skip
        assert "".join(delta.get(name, "") for delta in deltas) == text


def test_reasoning_can_be_left_out() -> None:
    server = Server(THINKS, REASONS)
    assert set(server.choice(include_reasoning=False)["message"]) == {"role", "content", "refusal"}
    deltas = [each["delta"] for each in server.deltas(include_reasoning=False)]
    assert "".join(delta.get("content", "") for delta in deltas) == "Hello."
    assert not any("reasoning" in delta for delta in deltas)


def test_reasoning_that_the_prompt_opened() -> None:
    says = THINKS.removeprefix("<think>")
    message = Server(says, REASONS + "{{ '<think>\n' }}").choice()["message"]
    assert (message["reasoning"], message["content"]) == ("They greet.", "Hello.")


def test_reasoning_has_a_budget() -> None:
    server = Server(THINKS, REASONS)
    server.choice(thinking_token_budget=2)
    make_grammar = server.engine.requests[-1].grammar
    assert make_grammar is not None
    grammar, mask = make_grammar(), memoryview(array("I", [0] * 9))
    for byte in b"<think>ab":
        grammar.accept_token(byte)
    grammar.fill_bitmask(mask)
    assert list(mask) == [0, 1 << ord("<") - 32, *[0] * 7]
    server.choice(thinking_token_budget=-1)
    assert server.engine.requests[-1].grammar is None
    assert "at least 0" in server.error(thinking_token_budget=-2)["message"]
    error = Server().error(thinking_token_budget=2)
    assert (error["param"], error["code"]) == ("thinking_token_budget", "unsupported_parameter")


def test_a_structure_holds_behind_reasoning() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "integer"}}}
    server = Server('<think>Hm.</think>{"a": 1}', REASONS)
    message = server.choice(response_format=schema)["message"]
    assert (message["reasoning"], message["content"]) == ("Hm.", '{"a": 1}')
    structure = server.engine.requests[-1].sampling.structured_outputs
    assert structure is not None
    assert structure.kind == "structural_tag"
    message = server.choice(structured_outputs={"grammar": 'start: "a"'})["message"]
    assert "reasoning" not in message  # it holds from the first token on
    structure = server.engine.requests[-1].sampling.structured_outputs
    assert structure is not None
    assert structure.kind == "grammar"


def test_parsers_are_chosen_by_name() -> None:
    says = '[TOOL_CALLS]f{"a": 1}'
    [call] = Server(says, tool_call_parser="mistral").choice(tools=TOOLS)["message"]["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": '{"a": 1}'}
    assert len(call["id"]) == 9  # as Mistral's templates demand
    assert call["id"].isalnum()
    message = Server("Hm.</think>Hello.", reasoning_parser="deepseek_r1").choice()["message"]
    assert (message["reasoning"], message["content"]) == ("Hm.", "Hello.")
    for name in ("tool_call_parser", "reasoning_parser"):
        with pytest.raises(ValueError, match="parser 'mine': use one of deepseek"):
            ServerConfig(**{name: "mine"})


def test_special_tokens_that_are_markers_are_shown() -> None:
    server = Server(template=SHOWS_TOOLS + "{# </s> #}")
    server.choice(tools=TOOLS, max_tokens=1)
    assert server.engine.requests[-1].sampling.skip_special_tokens


def test_calls_and_results_go_round() -> None:
    server = Server(CALLS)
    message = server.choice(tools=TOOLS)["message"]
    message.pop("refusal")
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "sunny"}
    assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"a": "é"}
    prompt = server.prompt(messages=[*HELLO, message, result], tools=TOOLS)
    assert prompt == "f g [user]Hi[assistant]I look.fg[tool]sunny"


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0].function", "is required"),
        ({"tools": [{"type": "custom"}]}, "tools[0].custom", "is required"),
        ({"tools": [{"type": "mcp"}]}, "tools[0].type", "'function' or 'custom', got 'mcp'"),
        ({"tools": [tool() | {"custom": {"name": "f"}}]}, "tools[0].custom", "must be left out"),
        ({"tools": [tool(name="a b")]}, "tools[0].function.name", "matches '^[A-Za-z0-9_.\\-]{1,"),
        ({"tools": [tool(), tool()]}, "tools", "'f' twice"),
        ({"tools": [tool(parameters=[])]}, "tools[0].function.parameters", "got []"),
        ({"tools": [tool(strict=1)]}, "tools[0].function.strict", "boolean, got 1"),
        ({"tools": [tool(description=1)]}, "tools[0].function.description", "string, got 1"),
        ({"tools": [tool(more=1)]}, "tools[0].function.more", "unknown field"),
        ({"tools": [tool() | {"more": 1}]}, "tools[0].more", "unknown field"),
        ({"tools": [tool(name=f"f{i}") for i in range(1025)]}, "tools", "at most 1024"),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"tool_choice": "any"}, "tool_choice", "must be 'none'"),
        ({"tool_choice": {"type": "function"}}, "tool_choice", "must name one of tools"),
        ({"tools": [tool()], "tool_choice": tool("g")}, "tool_choice", "(f), got 'g'"),
        ({"tools": [tool()], "tool_choice": {"type": "allowed_tools", "allowed_tools": {}}},
         "tool_choice", "must be 'none'"),
        ({"documents": ["a"]}, "documents", "must hold objects"),
        ({"reasoning_effort": "most"}, "reasoning_effort", "must be one of none, minimal"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(body: dict[str, Any], param: str, message: str) -> None:
    error = Server().error(**body)
    assert error["param"] == param
    assert message in error["message"]
