"""Finds keywords by the runs of characters (n-grams) that words share with them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

_KEPT_WORDS, _KEPT_LENGTH = 1 << 14, 64
_WORD = re.compile(r"[\w-]+")


class Ngrams:
    """Keywords that a word of a text, or the whole of it, must be similar to.

    Two texts are similar by 1 - d², where d is the part of their n-grams, with those of the spaces
    around them, that they do not share. The time is linear in the text.
    """

    def __init__(
        self, keywords: Sequence[str], *, arity: int, threshold: float, is_case_sensitive: bool
    ) -> None:
        self._arity = arity
        self._threshold = threshold
        self._is_case_sensitive = is_case_sensitive
        self._sizes: list[int] = []
        self._keywords_with: dict[str, list[tuple[int, int]]] = {}  # by n-gram: index and count
        for index, keyword in enumerate(keywords):
            padded = self._padded(self._folded(keyword))
            size = len(padded) - arity + 1
            self._sizes.append(size)
            grams = Counter(padded[start : start + arity] for start in range(size))
            for gram, count in grams.items():
                self._keywords_with.setdefault(gram, []).append((index, count))
        self._similar = lru_cache(_KEPT_WORDS)(self._find_similar)

    def search(self, text: str) -> set[int]:
        """The indices of the keywords that are similar to something in a text."""
        text = self._folded(text)
        found: set[int] = set()
        for word in set(_WORD.findall(text)):
            find = self._similar if len(word) <= _KEPT_LENGTH else self._find_similar
            found.update(find(word))
        if len(found) < len(self._sizes):
            found.update(self._find_similar(text))
        return found

    def similarities(self, word: str) -> dict[int, float]:
        """The similarities, in (0, 1], of the keywords that share an n-gram with a word."""
        padded = self._padded(word)
        size = len(padded) - self._arity + 1
        seen: dict[str, int] = {}
        shared: dict[int, int] = {}
        for start in range(size):
            gram = padded[start : start + self._arity]
            if gram in self._keywords_with:
                seen[gram] = seen.get(gram, 0) + 1
                for index, count in self._keywords_with[gram]:
                    shared[index] = shared.get(index, 0) + (seen[gram] <= count)
        result = {}
        for index, same in shared.items():
            num_all = size + self._sizes[index] - same
            result[index] = 1 - ((num_all - same) / num_all) ** 2
        return result

    def _find_similar(self, word: str) -> tuple[int, ...]:
        similarities = self.similarities(word).items()
        return tuple(index for index, similarity in similarities if similarity >= self._threshold)

    def _padded(self, text: str) -> str:
        pad = " " * (self._arity - 1)
        return f"{pad}{text}{pad}"

    def _folded(self, text: str) -> str:
        return text if self._is_case_sensitive else text.lower()
