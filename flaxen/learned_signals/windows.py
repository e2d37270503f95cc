"""Windows: a text of any length in pieces that an encoder can read, and their vectors as one.

Deliberately does not know: engines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flaxen.text.tokenizer import Tokenizer

Vectors = NDArray[np.float32]
Ids = tuple[int, ...]
_ENDS = ".!?。\uff01\uff1f।؟"  # of sentences
_FEWEST = 4  # tokens of a sentence; what ends sooner is a number, or goes with the next one
_MOST = 24  # tokens of a piece


class Window(NamedTuple):
    """Token ids as an encoder reads them, and where in them the pieces of the text lie."""

    ids: Ids
    spans: tuple[tuple[int, int], ...]


class Cutter:
    """Cuts texts into windows of token ids.

    Every token of a text is in some window. Neighbours share a quarter of their tokens, so that
    what lies across a border is whole in one of them.

    Args:
      tokenizer: the encoder's.
      max_tokens: of a window, with the special tokens around it.

    Raises:
      ValueError: no token has room between the special ones.
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        body, whole = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
        begin = next(i for i in range(len(whole)) if whole[i : i + len(body)] == body)
        self._prefix, self._suffix = whole[:begin], whole[begin + len(body) :]
        self._room = max_tokens - len(self._prefix) - len(self._suffix)
        ends = {tokenizer.encode(end, add_special_tokens=False)[-1]: end for end in _ENDS}
        # Not what stands for characters that the tokenizer does not know.
        self._ends = {token for token, end in ends.items() if tokenizer.decode([token]) == end}
        if self._room < 1:
            raise ValueError(
                f"a window of {max_tokens} tokens has no room between the encoder's special "
                "tokens: give more"
            )

    def num_windows(self, num_tokens: int) -> int:
        """How many windows a text of so many tokens has."""
        return len(self._begins(num_tokens))

    def windows(self, text: str) -> list[Window]:
        """The windows of a text, at least one. Each piece is in the first one that has all of it.

        Raises:
          ValueError: the text is not valid Unicode.
        """
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        begins = self._begins(len(ids))
        spans: list[list[tuple[int, int]]] = [[] for _ in begins]
        for begin, end in self._pieces(ids):
            number = max(0, -(-(end - self._room) // begins.step))
            moved = len(self._prefix) - begins[number]
            spans[number].append((begin + moved, end + moved))
        return [
            Window(self.framed(ids[begin : begin + self._room]), tuple(some))
            for begin, some in zip(begins, spans, strict=True)
        ]

    def framed(self, ids: Sequence[int]) -> Ids:
        """Tokens between the encoder's special ones."""
        return (*self._prefix, *ids, *self._suffix)

    def _pieces(self, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Where sentences begin and end; long ones in parts that share half of their tokens."""
        most = max(1, min(_MOST, self._room // 4))  # so that some window has all of a piece
        step, begin = max(1, most // 2), 0
        for end, token in enumerate(ids, 1):
            if end == len(ids) or (token in self._ends and end - begin >= _FEWEST):
                for first in range(begin, max(begin + 1, end - most + step), step):
                    yield first, min(first + most, end)
                begin = end

    def _begins(self, num_tokens: int) -> range:
        step = max(1, self._room - self._room // 4)
        return range(0, max(1, num_tokens - (self._room - step)), step)


@dataclass(frozen=True, eq=False)
class Windows:
    """What the encoder gave for a text.

    Attributes:
      vectors: float32 [windows, dimensions], each of length 1.
      pieces: short parts of the text as the encoder would read them alone; () if not asked for.
      in_context: what the windows say of these, [pieces, dimensions], each of length 1.
    """

    vectors: Vectors
    pieces: tuple[Ids, ...] = ()
    in_context: Vectors = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    @cached_property
    def pooled(self) -> Vectors:
        """One vector of the whole text, [dimensions], of length 1.

        The first window, the last one and the mean of those between count the same: what is asked
        stands at one of the ends, and what it is asked about may be of any length.
        """
        parts = [self.vectors[0]]
        if len(self.vectors) > 1:
            parts.append(self.vectors[-1])
        if len(self.vectors) > 2:
            parts.append(self.vectors[1:-1].mean(axis=0))
        return unit(np.sum(parts, axis=0, dtype=np.float32))


def unit(vector: Vectors) -> Vectors:
    """A vector, or the rows of a matrix, with length 1; zero stays zero."""
    lengths = np.linalg.norm(vector, axis=-1, keepdims=True)
    return np.asarray(vector / np.maximum(lengths, np.float32(1e-12)), np.float32)
