"""A block of reasoning before the answer, between two markers.

    <think>
    They ask for the weather.
    </think>

    It is sunny.

DeepSeek-R1, Qwen3, GLM-4.5, Kimi K2 and others write `<think>` and `</think>`, Mistral `[THINK]`
and `[/THINK]`, Seed-OSS `<seed:think>` and `</seed:think>`, and Granite 3.2 the sentences "Here is
my thought process:" and "Here is my response:", or the same with "Here's"; from their chat
templates and model cards. The template may have opened the block at the end of the prompt. Line
breaks between the block and the texts around it belong to neither. Deliberately does not know
calls.
"""

from __future__ import annotations

import re

from flaxen.output_parsers.incoming import Incoming, Reading

_BREAKS = re.compile(r"\n*")


def read(
    incoming: Incoming, *, begins: tuple[str, ...], ends: tuple[str, ...], is_open: bool
) -> Reading[None]:
    """Reads a block if the answer begins with one, and content behind it.

    Args:
      incoming: the text behind the prompt.
      begins: the markers, any of which opens the block.
      ends: likewise, for its end. Without one all the text is reasoning.
      is_open: the prompt has opened the block; the model may open it again.
    """
    incoming.begin()
    opened = yield from incoming.expect(*begins)
    if opened or is_open:
        incoming.forget()
        yield from incoming.reasoning_until(*ends)
        yield from incoming.run(_BREAKS)
    else:
        incoming.as_content()
    yield from incoming.content_until()
