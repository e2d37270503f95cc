"""What a file's reader hands over to make a `Tokenizer`. Deliberately does not know any format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import tokenizers

DEFAULT_TEMPLATE = "default"  # the name of the chat template that is used where none is asked for


@dataclass(frozen=True, kw_only=True)
class TokenizerParts:
    """A tokenizer of the `tokenizers` library, and what it does not hold itself."""

    backend: tokenizers.Tokenizer
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]  # the tokenizer's own first
    chat_template: str | None  # Jinja source
    # The others that the model has beside it, by name, as "tool_use".
    named_templates: Mapping[str, str] = field(default_factory=dict)
    # By the names that templates use: a text for "pad_token", a list for
    # "additional_special_tokens".
    special_tokens: Mapping[str, str | list[str]] = field(default_factory=dict)
    # Put around a text by `add_special_tokens`, beside what the backend's post-processor adds.
    prefix_ids: tuple[int, ...] = ()
    suffix_ids: tuple[int, ...] = ()
