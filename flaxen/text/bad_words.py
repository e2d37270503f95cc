"""Words that must not be generated, as token sequences. Deliberately does not know sampling."""

from __future__ import annotations

from collections.abc import Iterable

from flaxen.protocol import FieldError
from flaxen.text.tokenizer import Tokenizer


def bad_word_ids(tokenizer: Tokenizer, words: Iterable[str]) -> tuple[tuple[int, ...], ...]:
    """The token sequences that spell each word, at the start of a text and after a space.

    As in vLLM, a word's own leading spaces do not count, and a word spelled by other tokens (cut
    elsewhere) is not found.

    Raises:
      FieldError: a word is empty, or is spelled by no token of this vocabulary.
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
