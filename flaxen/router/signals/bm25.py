"""Finds keywords by the stems of their words, scored by BM25.

The keywords are the documents, and the text is the query: a rare word of a short keyword counts
most. Words that are in every English text count nothing.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from flaxen.router.signals.extra import load_extra
from flaxen.router.signals.words import CJK

_K1, _B = 1.2, 0.75
_KEPT_WORDS, _LONGEST = 1 << 14, 64  # longer words have no stem
# A word with its apostrophes and inner points (3.14); each CJK character is one.
_TOKEN = re.compile(rf"[{CJK}]|[^\W{CJK}]+(?:['\u2019.][^\W{CJK}]+)*")
_STOP_WORDS = """
    a about above after again against ain all am an and any are aren aren't as at be because been
    before being below between both but by can couldn couldn't d did didn didn't do does doesn
    doesn't doing don don't down during each few for from further had hadn hadn't has hasn hasn't
    have haven haven't having he her here hers herself him himself his how i if in into is isn isn't
    it it's its itself just ll m ma me mightn mightn't more most mustn mustn't my myself needn
    needn't no nor not now o of off on once only or other our ours ourselves out over own re s same
    shan shan't she she's should should've shouldn shouldn't so some such t than that that'll the
    their theirs them themselves then there these they this those through to too under until up ve
    very was wasn wasn't we were weren weren't what when where which while who whom why will with
    won won't wouldn wouldn't y you you'd you'll you're you've your yours yourself yourselves
"""


class Bm25:
    """Keywords whose score for a text must reach a threshold.

    Raises:
      ValueError: no word of a keyword counts, or PyStemmer is not installed.
    """

    def __init__(self, keywords: Sequence[str], threshold: float) -> None:
        stemmer: Any = load_extra("Stemmer", "PyStemmer", "keywords with method bm25")
        stem = stemmer.Stemmer("english").stemWord
        stop_words = frozenset(_STOP_WORDS.split())
        self._stem = lru_cache(_KEPT_WORDS)(lambda word: "" if word in stop_words else stem(word))
        self._threshold = threshold
        documents = [self._stems(keyword) for keyword in keywords]
        for keyword, document in zip(keywords, documents, strict=True):
            if not document:
                raise ValueError(
                    f"method bm25 leaves out words that are in every text, and the keyword "
                    f"{keyword!r} has no others: remove it, or use no method"
                )
        mean_length = sum(map(len, documents)) / len(documents)
        num_with = Counter(stem for document in documents for stem in set(document))
        # What one word of a text adds to which keyword's score, by its stem.
        self._weights: dict[str, list[tuple[int, float]]] = {}
        for index, document in enumerate(documents):
            norm = _K1 * (1 - _B + _B * len(document) / mean_length)
            for word, count in Counter(document).items():
                num = num_with[word]
                idf = math.log(1 + (len(documents) - num + 0.5) / (num + 0.5))
                weight = idf * count * (_K1 + 1) / (count + norm)
                self._weights.setdefault(word, []).append((index, weight))

    def scores(self, text: str) -> dict[int, float]:
        """The scores of the keywords that share a stem with a text, by their indices."""
        scores: dict[int, float] = {}
        for word in self._stems(text):
            for index, weight in self._weights.get(word, ()):
                scores[index] = scores.get(index, 0.0) + weight
        return scores

    def search(self, text: str) -> set[int]:
        """The indices of the keywords whose score for a text reaches the threshold."""
        return {index for index, score in self.scores(text).items() if score >= self._threshold}

    def _stems(self, text: str) -> list[str]:
        if not text.isascii():  # é is e, as in keywords that are typed without accents
            decomposed = unicodedata.normalize("NFD", text)
            text = "".join(c for c in decomposed if not "\u0300" <= c <= "\u036f")
            text = unicodedata.normalize("NFC", text)
        words = _TOKEN.findall(text.lower().replace("\u2019", "'"))
        stems = (self._stem(word) if len(word) <= _LONGEST else word for word in words)
        return [stem for stem in stems if stem]
