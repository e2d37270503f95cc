"""Finds keywords with mistakes in them: words at most some edits away (Levenshtein)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from flaxen.router.signals.words import lower_words

_KEPT_PHRASES = 1 << 14  # texts repeat their words


class Fuzzy:
    """Keywords that a word of a text, or as many words as they have, must be near to.

    The time is linear in the text's words, each of which is compared once with each keyword.
    """

    def __init__(self, keywords: Sequence[str], max_edits: int) -> None:
        self._max_edits = max_edits
        # By the number of words of a phrase and its length: the keywords that may be near to it.
        self._candidates: dict[int, dict[int, list[tuple[int, str]]]] = {1: {}}
        for index, keyword in enumerate(map(str.lower, keywords)):
            for size in {1, len(lower_words(keyword)) or 1}:
                by_length = self._candidates.setdefault(size, {})
                for length in range(len(keyword) - max_edits, len(keyword) + max_edits + 1):
                    by_length.setdefault(length, []).append((index, keyword))
        self._near = lru_cache(_KEPT_PHRASES)(self._find_near)

    def search(self, text: str) -> set[int]:
        """The indices of the keywords that are near to something in a text."""
        words = lower_words(text)
        found: set[int] = set()
        for size, by_length in self._candidates.items():
            phrases = words if size == 1 else _phrases(words, size)
            for phrase in set(phrases):
                if len(phrase) in by_length:
                    found.update(self._near(size, phrase))
        return found

    def _find_near(self, size: int, phrase: str) -> list[int]:
        candidates = self._candidates[size][len(phrase)]
        return [i for i, keyword in candidates if is_near(keyword, phrase, self._max_edits)]


def _phrases(words: Sequence[str], size: int) -> list[str]:
    return [" ".join(words[i : i + size]) for i in range(len(words) - size + 1)]


def is_near(one: str, other: str, max_edits: int) -> bool:
    """Whether at most so many insertions, deletions and replacements make one text the other."""
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
