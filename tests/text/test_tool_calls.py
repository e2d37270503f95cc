"""Tool calls as OpenAI writes them, and contents that are null, in chat templates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from flaxen.text.chat import ChatTemplate
from flaxen.text.tool_calls import read_tool_calls

CALLS = (
    "{% for m in messages %}[{{ m.role }}]{% if m.content %}{{ m.content }}{% endif %}"
    "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}{% endfor %}"
)
OBJECT = {"city": "SF", "days": [1, None]}
JSON = '{"city": "SF", "days": [1, null]}'
RENDERED = f'[assistant]{{"name": "weather", "arguments": {JSON}}}'


def call(arguments: Any) -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": "weather", "arguments": arguments}}


def rendered(source: str, *messages: dict[str, Any]) -> str:
    with closing(ChatTemplate(source, bos_token=None, eos_token=None)) as template:
        return template.render(messages)


@pytest.fixture(scope="module")
def template() -> Iterator[ChatTemplate]:
    template = ChatTemplate(CALLS, bos_token=None, eos_token=None)
    yield template
    template.close()


@pytest.mark.parametrize("arguments", [JSON, OBJECT])
@pytest.mark.parametrize("content", [{"content": None}, {}, {"content": ""}])
def test_arguments_in_json_are_rendered_as_an_object(
    template: ChatTemplate, arguments: Any, content: dict[str, Any]
) -> None:
    message = {"role": "assistant", **content, "tool_calls": [call(arguments)]}
    assert template.render([message]) == RENDERED
    bare = {"name": "weather", "arguments": arguments}
    assert template.render([{**message, "tool_calls": [bare]}]) == RENDERED


@pytest.mark.parametrize("arguments", ["", None, {}, "{}"])
def test_a_call_without_arguments_has_an_empty_object(arguments: Any) -> None:
    ((found),) = read_tool_calls([call(arguments)], "tool_calls")
    assert found["function"]["arguments"] == {}


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ({}, "x.tool_calls must be a list of calls, got {}"),
        ([3], r"x.tool_calls\[0\] must be an object with a function, got 3"),
        ([{"function": {}}], r"tool_calls\[0\].function must be an object with a name, got {}"),
        ([{"id": "1"}], r"tool_calls\[0\].function must be an object with a name, got None"),
        ([call("{city}")], r"\[0\].function.arguments is not valid JSON: .*, got '{city}'"),
        ([call("[" * 100_000)], "arguments is not valid JSON: it is nested too deeply"),
        ([call('{"a": "\\ud800"}')], r"\[0\].function.arguments holds half of a surrogate pair"),
        ([call("[1]")], r"\[0\].function.arguments must be a JSON object, got '\[1\]'"),
        ([call(3)], r"\[0\].function.arguments must be a JSON object, got 3"),
    ],
)
def test_what_is_wrong_with_calls(calls: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_tool_calls(calls, "x.tool_calls")


def test_what_is_wrong_is_named_by_its_message(template: ChatTemplate) -> None:
    with pytest.raises(
        ValueError, match=r"messages\[1\].tool_calls\[0\].function.arguments is not"
    ):
        template.render(
            [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "tool_calls": [call("f(x)")]},
            ]
        )


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages[0].content }}|", "|"),
        ("{{ 'x' + messages[0].content }}", "x"),
        ("{{ messages[0].content | trim }}", ""),
        ("{{ 'x' ~ messages[0].content }}", "x"),
        ("{% if messages[0].content is none %}null{% endif %}", "null"),
        ("{% if 'content' in messages[0] %}in{% endif %}", "in"),
        ("{% if messages[0].content is none %}None given{% endif %}", ""),
        ("{{ messages[0].name is defined }}", "False"),
    ],
)
def test_a_null_content_is_never_the_word_none(source: str, text: str) -> None:
    message = {"role": "assistant", "content": None, "name": None, "tool_calls": [call("")]}
    assert rendered(source, message) == text


def test_no_calls_are_no_key() -> None:
    source = "{{ messages[0].tool_calls is defined }}"
    for none in (None, []):
        assert (
            rendered(source, {"role": "assistant", "content": "Hi", "tool_calls": none}) == "False"
        )


def test_a_template_that_adds_arguments_to_a_text_gets_them_as_json() -> None:
    source = (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}"
        "{{ c.function.name + '(' + c.function.arguments + ')' }}{% endfor %}"
        "{{ m.content + '' }}{% endfor %}"
    )
    message = {"role": "assistant", "content": None, "tool_calls": [call(JSON)]}
    assert rendered(source, message) == f"weather({JSON})"
    with pytest.raises(ValueError, match=r"^no calls$"):
        rendered("{{ raise_exception('no calls') }}", message)


def test_thoughts_have_both_names_that_templates_know() -> None:
    source = "{% for m in messages %}{{ m.reasoning }}|{{ m.reasoning_content }};{% endfor %}"
    messages = [
        {"role": "assistant", "content": "a", **thoughts}
        for thoughts in ({"reasoning": "x"}, {"reasoning_content": "y"}, {})
    ]
    assert rendered(source, *messages) == "x|x;y|y;|;"


def test_what_a_tool_answered_is_one_text() -> None:
    source = (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}"
        "{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %};{% endfor %}"
    )
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    answers = [{"role": role, "content": parts} for role in ("user", "tool")]
    assert rendered(source, *answers) == "ab;a\nb;"
