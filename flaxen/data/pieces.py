"""Long texts as pieces that are shuffled like records, so that no batch is all from one place.

Deliberately does not know: tokens, files, the order of pieces.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from flaxen.data.records import Record, Text

_CHARS_PER_INPUT = 8  # of a piece; about two rows of English, a few more of other texts
_MOST_CHARS = 64 * 1024  # of a piece; also what a plain text is read by
_MOST_RECENT_CHARS = 64 * 1024 * 1024  # of all texts whose pieces are kept


class RecentPieces:
    """The pieces of the long texts that were used last: the others of a text are wanted soon, in
    any order, and each text is read from its file as a whole. Final.

    Args:
      most_chars: of all texts together; one that is longer is kept alone.
    """

    def __init__(self, most_chars: int = _MOST_RECENT_CHARS) -> None:
        self._most_chars, self._num_chars = most_chars, 0
        self._kept: OrderedDict[tuple[int, int], Sequence[Record]] = OrderedDict()

    def get(self, place: tuple[int, int], read: Callable[[], Sequence[Record]]) -> Sequence[Record]:
        """A record's pieces.

        Args:
          place: of the record: its file's number, and its own there.
          read: gives its pieces, where they are not kept. A record alone is wanted only once.
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
    """The pieces of a text; a text of about two rows or less is one.

    A piece ends with a line, or where lines are very long with a word, or anywhere.

    Args:
      record: the whole text, or a part of one.
      sequence_length: tokens of a row.
    """
    size = min(_CHARS_PER_INPUT * sequence_length, _MOST_CHARS)
    text, cuts = record.text, [0]
    while len(text) - cuts[-1] > size + size // 2:  # the rest of a cut is at least half a piece
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
    """The last good place to cut a text between two characters."""
    line = text.rfind("\n", least - 1, most)
    if line >= 0:
        return line + 1
    space = text.rfind(" ", least, most)  # which begins a word's token
    return space if space >= 0 else most
