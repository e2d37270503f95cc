"""A conversation's text, and where the assistant's own words lie in it: what a model learns.

A template says nothing of where a message begins, so it renders the conversation up to each. See
docs/decisions/0081-where-a-turn-lies.md. Deliberately does not know: token ids, files, losses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flaxen.text.chat import ChatTemplate


class Turns(NamedTuple):
    """A rendered conversation."""

    text: str
    spans: tuple[tuple[int, int], ...]  # characters [begin, end) of the wanted messages, in order


def render_turns(
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    wanted: Sequence[int],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> Turns:
    """Renders a whole conversation and finds messages of the assistant in it.

    A span is what the model would have written: from the end of the prompt for it to the end of
    the conversation up to it, the template's end of a turn included.

    Args:
      template: the model's.
      messages: OpenAI's.
      wanted: indices of assistant messages, ascending, none of them 0.
      tools: descriptions of functions.

    Raises:
      ValueError: the template refuses the messages, or renders them in another way when more
        follow, so that a turn has no place of its own.
    """

    def render(count: int, *, asks: bool) -> str:
        return template.render(messages[:count], tools=tools, add_generation_prompt=asks)

    text = render(len(messages), asks=False)
    spans = []
    for index in wanted:
        prompt = render(index, asks=True)
        is_last = index == len(messages) - 1
        so_far = text if is_last else render(index + 1, asks=False)
        if not so_far.startswith(prompt) or not text.startswith(so_far):
            raise ValueError(
                f"the chat template does not render messages[:{index + 1}] as the beginning of "
                f"the whole conversation, so the answer in messages[{index}] can't be found in "
                'it: give that message "weight": 0, or make it the last of a record of its own, '
                "or give the model another chat template"
            )
        spans.append((len(prompt), len(so_far)))
    return Turns(text=text, spans=tuple(spans))
