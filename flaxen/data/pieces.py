"""Splits long texts into pieces that are shuffled like records, so that a batch is mixed.

Deliberately does not know: tokens, files, the order of pieces.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from flaxen.data.records import Record, Text

_CHARS_PER_INPUT = 8  # of a piece: about two rows of English, a few more in other languages
_MOST_CHARS = 64 * 1024  # the most of a piece; plain text is read in such pieces too
_MOST_RECENT_CHARS = 64 * 1024 * 1024  # the most of all cached texts together


class RecentPieces:
    """A cache of the pieces of the most recently used long texts. A text is read from its file as a
    whole, and its other pieces are needed soon, in any order. Final.

    Args:
      most_chars: the most characters of all texts together; a longer text is cached alone.
    """

    def __init__(self, most_chars: int = _MOST_RECENT_CHARS) -> None:
        self._most_chars, self._num_chars = most_chars, 0
        self._kept: OrderedDict[tuple[int, int], Sequence[Record]] = OrderedDict()

    def get(self, place: tuple[int, int], read: Callable[[], Sequence[Record]]) -> Sequence[Record]:
        """The pieces of a record.

        Args:
          place: the index of the file, and of the record in it.
          read: returns the pieces if they are not cached. A single piece is not cached: it is used
              once.
        """
        if place in self._kept:
            self._kept.move_to_end(place)
            return self._kept[place]
        pieces = read()
        if len(pieces) > 1:
            self._kept[place] = pieces
            self._num_chars += _num_chars(pieces)
            while self._num_chars > self._most_chars and len(self._kept) > 1:
                self._num_chars -= _num_chars(self._kept.popitem(last=False)[1])
        return pieces


def _num_chars(pieces: Sequence[Record]) -> int:
    return sum(len(piece.text) for piece in pieces if isinstance(piece, Text))


def split_text(record: Text, sequence_length: int) -> list[Text]:
    """Splits a text into pieces; a text of at most about two rows is one piece.

    A piece ends at a line end, or between two words of a very long line, or else anywhere.

    Args:
      record: the whole text, or a part of one.
      sequence_length: tokens of a row.
    """
    size = min(_CHARS_PER_INPUT * sequence_length, _MOST_CHARS)
    text, cuts = record.text, [0]
    while (
        len(text) - cuts[-1] > size + size // 2
    ):  # so that the last piece is at least half a piece
        cuts.append(_cut(text, cuts[-1] + (size + 1) // 2, cuts[-1] + size))
    cuts.append(len(text))
    last = len(cuts) - 2
    return [
        Text(
            text=text[cuts[i] : cuts[i + 1]],
            begins=record.begins and i == 0,
            ends=record.ends and i == last,
        )
        for i in range(last + 1)
    ]


def _cut(text: str, least: int, most: int) -> int:
    """The best position to cut: the last line end or word end between `least` and `most`."""
    line = text.rfind("\n", least - 1, most)
    if line >= 0:
        return line + 1
    space = text.rfind(" ", least, most)  # the space belongs to the next word's token
    return space if space >= 0 else most
