"""The parts from which a `Tokenizer` is made, whatever file they came from. Knows no format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import tokenizers

DEFAULT_TEMPLATE = "default"  # the chat template that is used unless another is named


@dataclass(frozen=True, kw_only=True)
class TokenizerParts:
    """A tokenizer of the `tokenizers` library, and what that library does not store."""

    backend: tokenizers.Tokenizer
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]  # the tokenizer's own EOS is the first
    chat_template: str | None  # Jinja source
    # The model's other chat templates by name, e.g. "tool_use".
    named_templates: Mapping[str, str] = field(default_factory=dict)
    # Special tokens by the names that templates use: a text for "pad_token", a list for
    # "additional_special_tokens".
    special_tokens: Mapping[str, str | list[str]] = field(default_factory=dict)
    # Ids that `add_special_tokens` puts around a text, in addition to the backend's post-processor.
    prefix_ids: tuple[int, ...] = ()
    suffix_ids: tuple[int, ...] = ()
