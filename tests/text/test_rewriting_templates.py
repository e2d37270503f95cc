"""Templates that rewrite history: of each turn is learned what stands in the whole conversation."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from flaxen.text.chat import ChatTemplate
from flaxen.text.chat_turns import render_turns
from tests.text import rewriting_templates as templates

HI = {"role": "user", "content": "Hi"}
SO = {"role": "user", "content": "So?"}
YES = {"role": "assistant", "content": "Yes"}
NO = {"role": "assistant", "content": "No"}
SYSTEM = {"role": "system", "content": "Yes and No"}
ONE, TWO = [HI, YES], [HI, YES, SO, NO]
THOUGHT = "<think>\n\n</think>\n\n"
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}],
}
TOOL = {"role": "tool", "content": "3"}
CALLED = '<call>{"name": "f", "arguments": {"x": 1}}</call><|im_end|>\n'


def learned(source: str, messages: list[dict[str, Any]], **variables: Any) -> list[str]:
    wanted = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    with closing(ChatTemplate(source, bos_token=None, eos_token=None)) as template:
        text, spans = render_turns(template, messages, wanted, variables=variables)
        assert text == template.render(messages, add_generation_prompt=False, **variables)
        for number, (begin, end) in enumerate(spans):
            assert 0 <= begin < end <= len(text)
            only = render_turns(
                template, messages, wanted[number : number + 1], variables=variables
            )
            assert only.spans == ((begin, end),)
    return [text[begin:end] for begin, end in spans]


@pytest.mark.parametrize(
    ("source", "messages", "expected"),
    [
        (templates.THINKS, ONE, [THOUGHT + "Yes<|im_end|>\n"]),
        (templates.THINKS, TWO, ["Yes<|im_end|>\n", THOUGHT + "No<|im_end|>\n"]),
        (
            templates.THINKS,
            [HI, {**YES, "content": "<think>\nHm\n</think>\n\nYes"}, SO, NO],
            ["Yes<|im_end|>\n", THOUGHT + "No<|im_end|>\n"],
        ),
        (
            templates.THINKS,
            [HI, YES, SO, {**NO, "reasoning_content": "Hm"}],
            ["Yes<|im_end|>\n", "<think>\nHm\n</think>\n\nNo<|im_end|>\n"],
        ),
        (templates.THINKS, [HI, CALL, TOOL, YES], [CALLED, THOUGHT + "Yes<|im_end|>\n"]),
        (templates.ENDS, ONE, ["Yes<|end|>\n<|endoftext|>"]),
        (templates.ENDS, TWO, ["Yes<|end|>\n", "No<|end|>\n<|endoftext|>"]),
        (templates.CHANNELS, ONE, ["<|channel|>final<|message|>Yes<|return|>"]),
        (
            templates.CHANNELS,
            TWO,
            ["<|channel|>final<|message|>Yes", "<|channel|>final<|message|>No<|return|>"],
        ),
        (
            templates.CHANNELS,
            [HI, {**YES, "thinking": "Hm"}],
            [
                "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final"
                "<|message|>Yes<|return|>"
            ],
        ),
        (templates.SYSTEM_LAST, [SYSTEM, *ONE], [" Yes</s>"]),
        (templates.SYSTEM_LAST, [SYSTEM, *TWO], [" Yes</s>", " No</s>"]),
        (templates.OPENS, ONE, ["Yes<|eos|>"]),
        (templates.OPENS, TWO, ["Yes<|eos|>", "No<|eos|>"]),
        (
            templates.OPENS,
            [HI, {**YES, "content": "<think>\nHm</think>Yes"}],
            ["Yes<|eos|>"],
        ),
        (templates.MARKED, ONE, ["<think></think>Yes</s>"]),
        (templates.MARKED, TWO, ["Yes</s>", "<think></think>No</s>"]),
        (templates.NO_HEADER, ONE, ["\n\n### assistant: Yes"]),
        (templates.NO_HEADER, TWO, ["\n\n### assistant: Yes", "\n\n### assistant: No"]),
    ],
)
def test_what_is_learned(source: str, messages: list[Any], expected: list[str]) -> None:
    assert learned(source, messages) == expected


def test_a_variable_may_change_what_is_asked_with() -> None:
    """Without thinking the prompt ends with an empty thought, which history does not have."""
    found = learned(templates.THINKS, TWO, enable_thinking=False)
    assert found == ["Yes<|im_end|>\n", "No<|im_end|>\n"]


def test_the_same_answer_twice_is_found_where_it_stands() -> None:
    for source in (templates.THINKS, templates.ENDS, templates.SYSTEM_LAST, templates.OPENS):
        with closing(ChatTemplate(source, bos_token=None, eos_token=None)) as template:
            messages = [{**HI, "content": "Yes"}, YES, {**SO, "content": "Yes"}, YES]
            text, spans = render_turns(template, messages, (1, 3))
            places = [text.index("Yes", begin) for begin, _ in spans]
            found = [i for i in range(len(text)) if text.startswith("Yes", i)]
            assert places == [found[1], found[3]]


def test_marks_that_a_filter_has_seen_are_not_believed() -> None:
    source = (
        "{% for m in messages %}{% filter upper %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% endfilter %};{% endfor %}"
    )
    assert learned(source, TWO) == ["YES;", "NO;"]
    trimmed = source.replace("upper", "trim").replace("{{ m.content }}", " {{ m.content }} ")
    assert learned(trimmed, TWO) == ["Yes;", "No;"]


def test_a_header_that_begins_like_a_call_is_not_cut_in_two() -> None:
    """A prompt begins a thought, which neither history nor a call has."""
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' and loop.last and not m.tool_calls %}<think>\n\n</think>\n\n"
        "{% endif %}{{ m.content or '' }}"
        "{% for c in m.tool_calls or [] %}<tool_call>\n<function={{ c.function.name }}>"
        "</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
    )
    assert learned(source, [HI, CALL, TOOL, YES]) == [
        "<tool_call>\n<function=f></tool_call><|im_end|>\n",
        "\n</think>\n\nYes<|im_end|>\n",
    ]


def test_a_header_that_ends_in_another_way_is_asked_with_all_the_same() -> None:
    source = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '</s>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}"
    )
    assert learned(source, TWO) == [" Yes</s>", " No</s>"]


def test_marks_around_a_header_do_not_make_it_learned() -> None:
    """A server asks with it."""
    source = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}<assistant>"
        "{{ m.content }}</s>{% endgeneration %}{% else %}<user>{{ m.content }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert learned(source, TWO) == ["Yes</s>", "No</s>"]


def test_a_template_that_reads_no_texts_is_no_empty_answer() -> None:
    source = (
        "{% for m in messages %}<{{ m.role }}>{% for part in m.content if part.type == 'text' %}"
        "{{ part.text }}{% endfor %}</s>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    marked = source.replace("{% for part", "{% generation %}{% for part").replace(
        "</s>", "</s>{% endgeneration %}"
    )
    for each in (source, marked.replace("in messages", "in messages if m.role != 'user'")):
        with pytest.raises(ValueError, match=r"leaves the answer in messages\[1\] out"):
            learned(each, TWO)
    parts = [{**each, "content": [{"type": "text", "text": each["content"]}]} for each in TWO]
    assert learned(source, parts) == ["Yes</s>", "No</s>"]


def test_an_empty_answer_is_its_end() -> None:
    empty = {"role": "assistant", "content": ""}
    assert learned(templates.ENDS, [HI, empty, SO, NO]) == [
        "<|end|>\n", "No<|end|>\n<|endoftext|>",
    ]  # fmt: skip
