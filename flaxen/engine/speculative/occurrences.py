"""Where in a text its last tokens came before: an index that grows with the text.

Deliberately does not know: sequences, what is proposed from it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from collections.abc import Sequence as Ids
from typing import final

_NONE = -1


@final
class Occurrences:
    """An index of a text's n-grams, of one length. Each token is indexed once, in O(1).

    Args:
      size: n, the tokens of an n-gram.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._latest: dict[tuple[int, ...], int] = {}  # the end of the last n-gram of each kind
        # For each position, where the n-gram that ends before it ended before; else _NONE.
        self._earlier = array("i")

    def index(self, tokens: Ids[int], end: int) -> None:
        """Indexes the n-grams that end at or before `end`, and were not indexed yet."""
        size, latest, earlier = self._size, self._latest, self._earlier
        if not earlier:
            earlier.extend([_NONE] * size)
        for position in range(len(earlier), end + 1):
            gram = tuple(tokens[position - size : position])
            earlier.append(latest.get(gram, _NONE))
            latest[gram] = position

    def ends(self, gram: tuple[int, ...], most: int) -> Iterator[int]:
        """Where an n-gram ends in the text, the last occurrence first, at most so many."""
        position = self._latest.get(gram, _NONE)
        while position != _NONE and most > 0:
            yield position
            position = self._earlier[position]
            most -= 1


def match_length(text: Ids[int], end: int, tail: Ids[int], known: int, most: int) -> int:
    """How many tokens before `end` in a text are the last ones of `tail`.

    Args:
      text: any tokens.
      end: a position in it.
      tail: what is looked for.
      known: how many are known to be equal.
      most: where to stop counting.
    """
    most = min(most, end, len(tail))
    while known < most and text[end - 1 - known] == tail[-1 - known]:
        known += 1
    return known


def continued(tokens: Ids[int], start: int, most: int) -> list[int]:
    """What follows a position of a text, at most so many tokens; what repeats up to the text's end
    goes on repeating.
    """
    found = list(tokens[start : start + most])
    period = len(found)
    while found and len(found) < most:
        found.append(found[-period])
    return found
