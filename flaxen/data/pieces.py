"""Long texts as pieces that are shuffled like records, so that no batch is all from one place.

Deliberately does not know: tokens, files, the order of pieces.
"""

from __future__ import annotations

from flaxen.data.records import Text

_CHARS_PER_INPUT = 8  # of a piece; about two rows of English, a few more of other texts
_MOST_CHARS = 64 * 1024  # of a piece; also what a plain text is read by


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
