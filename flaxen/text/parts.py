"""What a file's reader hands over to make a `Tokenizer`. Deliberately does not know any format."""

from __future__ import annotations

from dataclasses import dataclass

import tokenizers


@dataclass(frozen=True, kw_only=True)
class TokenizerParts:
    """A tokenizer of the `tokenizers` library, and what it does not hold itself."""

    backend: tokenizers.Tokenizer
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]  # the tokenizer's own first
    chat_template: str | None  # Jinja source
    # Put around a text by `add_special_tokens`, beside what the backend's post-processor adds.
    prefix_ids: tuple[int, ...] = ()
    suffix_ids: tuple[int, ...] = ()
