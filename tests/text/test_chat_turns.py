"""Where the assistant's turns lie in a rendered conversation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from flaxen.text.chat import ChatTemplate
from flaxen.text.chat_turns import render_turns
from flaxen.text.tokenizer import Tokenizer

CHAT: list[dict[str, Any]] = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes"},
    {"role": "user", "content": "So?"},
    {"role": "assistant", "content": "No"},
]
# It takes the thoughts out of all answers but the last, as several models' do.
FORGETS = (
    "{% for m in messages %}[{{ m.role }}]"
    "{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}"
    "{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture
def forgets() -> Iterator[ChatTemplate]:
    template = ChatTemplate(FORGETS, bos_token=None, eos_token=None)
    yield template
    template.close()


def test_smollm2s_turns(smollm2: Tokenizer) -> None:
    template = ChatTemplate(
        smollm2.chat_template, bos_token=smollm2.bos_token, eos_token=smollm2.eos_token
    )
    text, spans = render_turns(template, CHAT, (1, 3))
    assert text == template.render(CHAT, add_generation_prompt=False)
    assert [text[begin:end] for begin, end in spans] == ["Yes<|im_end|>\n", "No<|im_end|>\n"]
    assert text[: spans[1][0]] == template.render(CHAT[:3])
    assert render_turns(template, CHAT, (3,)).spans == spans[1:]
    template.close()


def test_a_turn_that_changes_when_more_follows_is_found(forgets: ChatTemplate) -> None:
    text, spans = render_turns(forgets, CHAT, (1, 3))
    assert text == forgets.render(CHAT, add_generation_prompt=False)
    assert [text[begin:end] for begin, end in spans] == ["Yes", "<think></think>No"]
    assert render_turns(forgets, CHAT, (3,)).spans == spans[1:]


def test_an_answer_that_the_template_leaves_out_is_named() -> None:
    template = ChatTemplate("{{ messages[-1].content }}", bos_token=None, eos_token=None)
    with pytest.raises(
        ValueError,
        match=r"leaves the answer in messages\[1\] out of the conversation, so there is nothing to "
        r'learn from it: give that message "weight": 0',
    ):
        render_turns(template, CHAT, (1, 3))
    text, ((begin, end),) = render_turns(template, CHAT, (3,))
    assert text[begin:end] == "No"
    template.close()


@pytest.mark.parametrize("content", ["Let me see", "I call add"])
def test_tool_calls_that_the_template_leaves_out_are_named(content: str) -> None:
    shows = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if calls %}{% for c in "
    shows += "m.tool_calls or [] %}<{{ c.function.name }}>{% endfor %}{% endif %};{% endfor %}"
    template = ChatTemplate(shows, bos_token=None, eos_token=None)
    calls = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]
    asked = [CHAT[0], {"role": "assistant", "content": content, "tool_calls": calls}]
    with pytest.raises(
        ValueError, match=r"leaves the tool calls in messages\[1\] out .* take them"
    ):
        render_turns(template, asked, (1,))
    text, ((begin, end),) = render_turns(template, asked, (1,), variables={"calls": True})
    assert text[begin:end].endswith(f"{content}<add>;")
    template.close()


def test_a_system_message_that_the_template_leaves_out_is_named() -> None:
    asked = [{"role": "system", "content": "Be kind"}, *CHAT[:2]]
    template = ChatTemplate(
        "{% for m in messages %}{{ m.content | upper }}{% endfor %}", bos_token=None, eos_token=None
    )
    assert render_turns(template, asked, (2,)).text == "BE KINDHIYES"
    template.close()
    template = ChatTemplate(
        "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}",
        bos_token=None,
        eos_token=None,
    )
    with pytest.raises(ValueError, match=r"leaves the system message in messages\[0\] out of the"):
        render_turns(template, asked, (2,))
    template.close()


def test_what_the_template_ignores_is_refused(forgets: ChatTemplate) -> None:
    with pytest.raises(ValueError, match="the chat template has no variable 'tools', so the model"):
        render_turns(forgets, CHAT, (1,), tools=[{"name": "add"}])
    with pytest.raises(ValueError, match=r"no variable 'enable_thinking', .* take it out of the"):
        render_turns(forgets, CHAT, (1,), variables={"enable_thinking": False})


def test_tools_are_rendered(forgets: ChatTemplate) -> None:
    template = ChatTemplate(
        "{{ tools[0].name }}{% for m in messages %}{{ m.content }}{% endfor %}",
        bos_token=None,
        eos_token=None,
    )
    text, spans = render_turns(template, CHAT[:2], (1,), tools=[{"name": "add"}])
    assert text == "addHiYes"
    assert spans == ((5, 8),)
    template.close()
