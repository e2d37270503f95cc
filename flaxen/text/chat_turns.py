"""Renders a conversation and finds the assistant's text in it, which is what a model learns.

A template returns one text and does not say where each message is. Each answer is searched for in
that text, which is also what a server would give the model as history. See
docs/decisions/0161-answers-are-found-in-the-whole-text.md. Deliberately does not know: token ids,
files, losses.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from flaxen.text.chat import GENERATION_BEGINS, GENERATION_ENDS, ChatTemplate

# A stand-in begins and ends with private-use characters, as no real content does.
_STAND_IN = "\ue0f0flaxen\ue0f1"
_MARK = "\U0010fffd"
# Matches two characters that no token spans: around white space and special tokens.
_BORDER = re.compile(r"[\s>\]]|.[\s<\[]", re.DOTALL)

Message = Mapping[str, Any]
Span = tuple[int, int]  # characters [begin, end)


class RenderedChat(NamedTuple):
    """A rendered conversation."""

    text: str
    spans: tuple[Span, ...]  # one for each wanted message, in order


class _Render(Protocol):
    def __call__(self, messages: Sequence[Message], *, asks: bool) -> str: ...


def render_turns(
    template: ChatTemplate,
    messages: Sequence[Message],
    wanted: Sequence[int],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> RenderedChat:
    """Renders a whole conversation and finds messages of the assistant in it.

    A span is the text that the model would have generated in that turn: what follows the prompt,
    including the template's end of a turn. If the template marks the assistant's text with {%
    generation %}, these marks decide.

    Args:
      template: the model's chat template.
      messages: in OpenAI's format.
      wanted: indices of assistant messages, ascending, none of them 0.
      tools: descriptions of functions.
      variables: further variables of the template, by name.

    Raises:
      ValueError: the template refuses the messages, leaves out a wanted message or a system
          message, or ignores the tools or a variable.
    """
    own = dict(variables or {})
    for name in (*(("tools",) if tools else ()), *own):
        if not template.mentions(name, with_tools=tools is not None):
            raise ValueError(
                f"the chat template has no variable {name!r}, so the model would not be told: take "
                "it out of the record, or give the model another chat template"
            )

    def render(messages: Sequence[Message], *, asks: bool) -> str:
        return template.render(messages, tools=tools, add_generation_prompt=asks, **own)

    text = render(messages, asks=False)
    _check_system(render, text, messages)
    if template.marks_generation:
        marks = {GENERATION_BEGINS: f"{_MARK}(", GENERATION_ENDS: f"{_MARK})"}
        marked = template.render(
            messages, tools=tools, add_generation_prompt=False, **{**own, **marks}
        )
        if spans := _marked_spans(text, marked, messages, wanted):
            for index, (begin, end) in zip(wanted, spans, strict=True):
                if not _shows(text[begin:end], messages[index]):
                    _content(render, text, messages, index)
            prompts = [render(messages[:index], asks=True) for index in wanted]
            return RenderedChat(text, tuple(map(functools.partial(_after, text), prompts, spans)))
    return RenderedChat(text, tuple(_find(render, text, messages, index) for index in wanted))


def _marked_spans(
    text: str, marked: str, messages: Sequence[Message], wanted: Sequence[int]
) -> tuple[Span, ...]:
    """The spans that the template marked for the wanted messages; () unless each has one."""
    pieces = re.split(f"{_MARK}([()])", marked)
    is_balanced = pieces[1::2] == ["(", ")"] * (len(pieces) // 4)
    if not is_balanced or "".join(pieces[::2]) != text:
        return ()  # a filter of the template changed the marks, or the messages contain them
    spans, position = [], 0
    for piece, mark in zip(pieces[::2], pieces[1::2], strict=False):
        position += len(piece)
        if mark == ")":
            spans.append((position - len(piece), position))
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if len(spans) != len(answers):
        return ()
    by_index = dict(zip(answers, spans, strict=True))
    chosen = tuple(by_index[index] for index in wanted)
    return chosen if all(begin < end for begin, end in chosen) else ()


def _after(text: str, prompt: str, span: Span) -> Span:
    """Removes the turn's header from a span: the header is part of the prompt, not generated."""
    begin, end = span
    is_asked = begin < len(prompt) < end and text.startswith(prompt)
    return (len(prompt) if is_asked else begin, end)


def _find(render: _Render, text: str, messages: Sequence[Message], index: int) -> Span:
    """Finds the span of an answer in the whole text."""
    prompt = render(messages[:index], asks=True)
    is_last = index == len(messages) - 1
    so_far = text if is_last else render(messages[: index + 1], asks=False)
    if text.startswith(so_far) and so_far.startswith(prompt):
        if not _shows(so_far[len(prompt) :], messages[index]):
            _content(render, text, messages, index)
        return len(prompt), len(so_far)
    # The template renders this turn differently when more messages follow, or begins a given answer
    # in another way than its generation prompt.
    begin, end = _content(render, text, messages, index)
    own = (begin, end) if is_last else _content(render, so_far, messages[: index + 1], index)
    asked = _num_common(prompt, so_far)
    asked = own[0] if asked >= own[0] else _to_border(prompt, asked)
    lead, trail = so_far[asked : own[0]], so_far[own[1] :]
    if text.startswith(prompt) and len(prompt) <= begin:
        begin = len(prompt)
    else:
        before = _num_common(render(messages[:index], asks=False), so_far[:asked])
        begin -= _num_before(text[:begin], so_far[before:asked], lead)
    return begin, end + _to_border(trail, _num_common(trail, text[end:]))


def _shows(text: str, message: Message) -> bool:
    """Whether a text contains a message's content, and the names of its tool calls, unchanged."""
    content = message.get("content") or ""
    parts = [content] if isinstance(content, str) else [part["text"] for part in content]
    names = [call["function"]["name"] for call in message.get("tool_calls") or ()]
    for part in parts:
        if part.strip() not in text:
            return False
        text = text.replace(part.strip(), "", 1)  # it may contain a call's name
    return all(name in text for name in names)


def _check_system(render: _Render, text: str, messages: Sequence[Message]) -> None:
    """Refuses a system message that the template ignores: the model would be trained without it."""
    for index, message in enumerate(messages):
        if message["role"] != "system" or _shows(text, message):
            continue
        changed = [*messages[:index], _changed(message), *messages[index + 1 :]]
        if render(changed, asks=False) == text:
            raise ValueError(
                f"the chat template leaves the system message in messages[{index}] out of the "
                "conversation, so the model would not be told: take it out of the record, or give "
                "the model another chat template"
            )


def _content(render: _Render, text: str, messages: Sequence[Message], index: int) -> Span:
    """Finds the span of a message's content: the part of the text that changes with the content.

    Raises:
      ValueError: the text does not change with the content, or not with the tool calls beside it.
    """
    changed = _changed(messages[index])
    other = render([*messages[:index], changed, *messages[index + 1 :]], asks=False)
    if other == text:
        raise ValueError(
            f"the chat template leaves the answer in messages[{index}] out of the conversation, "
            'so there is nothing to learn from it: give that message "weight": 0, or make it the '
            "last of a record of its own, or give the model another chat template"
        )
    if messages[index].get("content") and "tool_calls" in changed:
        changed = {**messages[index], "tool_calls": changed["tool_calls"]}
        if render([*messages[:index], changed, *messages[index + 1 :]], asks=False) == text:
            raise ValueError(
                f"the chat template leaves the tool calls in messages[{index}] out of the "
                "conversation, so the answer would be learned without them: take them out, give "
                'that message "weight": 0, or give the model another chat template'
            )
    num_before = _num_common(text, other)
    num_after = _num_common(text[num_before:][::-1], other[num_before:][::-1])
    return num_before, len(text) - num_after


def _changed(message: Message) -> Message:
    """Returns the message with stand-ins for its content and for the names of its tool calls."""
    content, calls = message.get("content"), message.get("tool_calls")
    changed = {**message}
    if calls:
        named = [{**call, "function": {**call["function"], "name": _STAND_IN}} for call in calls]
        changed["tool_calls"] = named
    if content or not calls:
        is_text = content is None or isinstance(content, str)
        changed["content"] = _STAND_IN if is_text else [{"type": "text", "text": _STAND_IN}]
    return changed


def _num_before(text: str, header: str, lead: str) -> int:
    """Counts the characters before an answer's content that the model generates itself.

    They are the end of `lead`, after as much of the header as `text` contains.

    Args:
      text: the conversation's text up to the content.
      header: the end of a prompt that asks for the answer.
      lead: the text between that header and the content, if the answer is the last message.
    """

    def num_header(num: int) -> int:
        before = text[: len(text) - num]
        lengths = (each for each in range(len(header), 0, -1) if _is_border(header, each))
        return next((each for each in lengths if before.endswith(header[:each])), 0)

    most = _num_common(text[::-1], lead[::-1])
    return max(range(most, -1, -1), key=num_header)  # the largest of several equally good ones


def _to_border(text: str, num: int) -> int:
    """The last token boundary at or before a number of characters."""
    while not _is_border(text, num):
        num -= 1  # two special tokens with a common prefix, such as <|end|> and <|endoftext|>
    return num


def _is_border(text: str, num: int) -> bool:
    """Whether a cut after `num` characters is between two tokens."""
    return not 0 < num < len(text) or _BORDER.match(text[num - 1 : num + 1]) is not None


def _num_common(one: str, other: str) -> int:
    """The length of the common prefix."""
    least, most = 0, min(len(one), len(other))
    while least < most:
        middle = (least + most + 1) // 2
        if one[:middle] == other[:middle]:
            least = middle
        else:
            most = middle - 1
    return least
