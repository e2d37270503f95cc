"""Windows: a text of any length in pieces that an encoder can read, and their vectors as one.

Deliberately does not know: engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from flaxen.text.tokenizer import Tokenizer

Vectors = NDArray[np.float32]


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
        if self._room < 1:
            raise ValueError(
                f"a window of {max_tokens} tokens has no room between the encoder's special "
                "tokens: give more"
            )

    def num_windows(self, num_tokens: int) -> int:
        """How many windows a text of so many tokens has."""
        return len(self._begins(num_tokens))

    def windows(self, text: str) -> list[tuple[int, ...]]:
        """The windows of a text, at least one.

        Raises:
          ValueError: the text is not valid Unicode.
        """
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        return [
            (*self._prefix, *ids[begin : begin + self._room], *self._suffix)
            for begin in self._begins(len(ids))
        ]

    def _begins(self, num_tokens: int) -> range:
        step = max(1, self._room - self._room // 4)
        return range(0, max(1, num_tokens - (self._room - step)), step)


@dataclass(frozen=True, eq=False)
class Windows:
    """What the encoder gave for a text: float32 [windows, dimensions], each of length 1."""

    vectors: Vectors

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


def stacked(vectors: Sequence[Sequence[float]]) -> Vectors:
    """The windows' vectors of an encoder as rows of length 1."""
    return unit(np.asarray(vectors, np.float32))
