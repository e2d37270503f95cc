"""Prompt lookup: what followed the last tokens where they came before in prompt and output.

Deliberately does not know: steps, when drafts pay.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Ids
from typing import final

from flaxen.engine.speculative.drafter import Drafter
from flaxen.engine.speculative.occurrences import Occurrences, continued, match_length
from flaxen.scheduling.sequence import Sequence

_MOST_LOOKED_AT = 32  # occurrences of the last tokens


@final
class Ngrams(Drafter):
    """The drafter `ngram`: the longest match of the last tokens, and of equal ones the last.

    Args:
      shortest: the fewest tokens that must match.
      longest: the most that are compared.
    """

    def __init__(self, shortest: int, longest: int) -> None:
        self._shortest, self._longest = shortest, longest
        self._indexes: dict[Sequence, Occurrences] = {}

    def propose(self, wanted: Mapping[Sequence, int]) -> Mapping[Sequence, Ids[int]]:
        return {sequence: self._continuation(sequence, most) for sequence, most in wanted.items()}

    def end(self, sequence: Sequence) -> None:
        self._indexes.pop(sequence, None)

    def _continuation(self, sequence: Sequence, most: int) -> Ids[int]:
        tokens, shortest = sequence.tokens, self._shortest
        index = self._indexes.get(sequence)
        if index is None:
            index = self._indexes[sequence] = Occurrences(shortest)
        index.index(tokens, len(tokens) - 1)  # the last tokens themselves are not yet in it
        best, start = 0, 0
        for end in index.ends(tuple(tokens[-shortest:]), _MOST_LOOKED_AT):
            length = match_length(tokens, end, tokens, shortest, self._longest)
            if length > best:
                best, start = length, end
            if length == self._longest:
                break
        return continued(tokens, start, most) if best else ()
