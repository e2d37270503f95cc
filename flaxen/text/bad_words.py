"""Turns bad words, which must not be generated, into token sequences. Knows nothing of sampling."""

from __future__ import annotations

from collections.abc import Iterable

from flaxen.protocol import FieldError
from flaxen.text.tokenizer import Tokenizer


def bad_word_ids(tokenizer: Tokenizer, words: Iterable[str]) -> tuple[tuple[int, ...], ...]:
    """The token sequences that spell each word, at the start of a text and after a space.

    As in vLLM, leading spaces of a word are ignored, and only the usual tokenization of a word is
    forbidden: the same letters split into other tokens can still be generated.

    Raises:
      FieldError: a word is empty, or the tokenizer gives no token for it.
    """
    sequences: dict[tuple[int, ...], None] = {}  # a set that keeps its order
    for word in words:
        bare = word.lstrip()
        spellings = [bare, f" {bare}"] if bare else [word]
        found = [tuple(tokenizer.encode(text, add_special_tokens=False)) for text in spellings]
        if not all(found):
            raise FieldError(
                "bad_words", f"the bad word {word!r} has no tokens in this vocabulary: leave it out"
            )
        sequences.update(dict.fromkeys(found))
    return tuple(sequences)
