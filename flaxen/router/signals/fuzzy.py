"""Finds keywords with mistakes in them: words at most some edits away (Levenshtein)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from flaxen.router.signals.words import lower_words

_KEPT_WORDS = 1 << 14  # texts repeat their words


class Fuzzy:
    """Keywords that a word of a text, or as many words as they have, must be near to.

    The time is linear in the text's words, each of which is compared once with each keyword.
    """

    def __init__(self, keywords: Sequence[str], max_edits: int) -> None:
        self._keywords = [keyword.lower() for keyword in keywords]
        self._sizes = sorted({1, *(len(lower_words(keyword)) or 1 for keyword in keywords)})
        self._max_edits = max_edits
        self._near = lru_cache(_KEPT_WORDS)(self._find_near)

    def search(self, text: str) -> set[int]:
        """The indices of the keywords that are near to something in a text."""
        words = lower_words(text)
        phrases: set[str] = set()
        for size in self._sizes:
            phrases.update(" ".join(words[i : i + size]) for i in range(len(words) - size + 1))
        longest = max(map(len, self._keywords)) + self._max_edits
        near = [self._near(phrase) for phrase in phrases if len(phrase) <= longest]
        return {index for indices in near for index in indices}

    def _find_near(self, phrase: str) -> tuple[int, ...]:
        return tuple(
            index
            for index, keyword in enumerate(self._keywords)
            if is_near(keyword, phrase, self._max_edits)
        )


def is_near(one: str, other: str, max_edits: int) -> bool:
    """Whether at most so many insertions, deletions and replacements make one text the other."""
    if abs(len(one) - len(other)) > max_edits:
        return False
    # One of max_edits + 1 parts is in the other text unchanged, if so few edits do.
    step = len(one) // (max_edits + 1)
    if step and not any(one[i * step : (i + 1) * step] in other for i in range(max_edits + 1)):
        return False
    row = list(range(len(one) + 1))
    for j, character in enumerate(other, start=1):
        previous = row
        row = [j]
        for i, mine in enumerate(one):
            row.append(min(previous[i] + (mine != character), previous[i + 1] + 1, row[i] + 1))
    return row[-1] <= max_edits
