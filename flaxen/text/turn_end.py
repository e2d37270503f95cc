"""Finds the token that ends the assistant's turn: the chat template writes it after an answer.

A tokenizer's EOS ends a text, but many chat models end a turn with another token that no file
names. Without that token an answer runs on to max_tokens. Deliberately does not know files.
docs/decisions/0175-the-end-of-a-turn.md says why a chat is rendered to find it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tokenizers

from flaxen.text.chat_process import TemplateProcess

_ANSWER = "flaxen-answer"
_CHAT = [
    {"role": "user", "content": "flaxen-question"},
    {"role": "assistant", "content": _ANSWER},
]
_TIMEOUT_S, _MAX_CHARS, _MAX_BYTES = 2.0, 1_000_000, 512_000_000
# The tokens of published models, for a template that can't render the chat above.
_WELL_KNOWN = (
    "<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>", "<|end_of_turn|>",
    "<|END_OF_TURN_TOKEN|>", "<end_of_utterance>",
)  # fmt: skip


def find_turn_end(
    backend: tokenizers.Tokenizer, template: str, special_tokens: Mapping[str, Any]
) -> int | None:
    """Finds the id of the first token that a template writes after an assistant's message.

    Args:
      backend: the tokenizer whose special tokens may end a turn.
      template: the model's chat template, which runs in a process of its own.
      special_tokens: the template's variables, such as eos_token.

    Returns:
      The id; None if the template ends a message with plain text or nothing.
    """
    behind = _text_behind(template, special_tokens)
    if behind is None:
        named = (backend.token_to_id(name) for name in _WELL_KNOWN if name in template)
        return next((token_id for token_id in named if token_id is not None), None)
    # Only special tokens count, because other added tokens may be line breaks. A well-known name
    # may be stored as an ordinary token.
    added = backend.get_added_tokens_decoder().items()
    ends = {token.content: i for i, token in added if token.special and token.content.strip()}
    known = {name: backend.token_to_id(name) for name in _WELL_KNOWN}
    ends |= {name: token_id for name, token_id in known.items() if token_id is not None}
    places = [(behind.find(text), -len(text), text) for text in ends if text in behind]
    return ends[min(places)[2]] if places else None


def _text_behind(template: str, special_tokens: Mapping[str, Any]) -> str | None:
    """The text after the answer of a short chat; None if the template can't render that chat."""
    variables = {
        "bos_token": "",
        "eos_token": "",
        **special_tokens,
        "messages": _CHAT,
        "tools": None,
        "add_generation_prompt": False,
    }
    try:
        process = TemplateProcess(
            template, timeout_s=_TIMEOUT_S, max_chars=_MAX_CHARS, max_bytes=_MAX_BYTES
        )
    except (
        ValueError,
        OSError,
    ):  # a chat gets this error later; a text needs no template
        return None
    try:
        text = process.render(variables)
    except ValueError:
        return None
    finally:
        process.close()
    _, answer, behind = text.rpartition(_ANSWER)
    return behind if answer else None
