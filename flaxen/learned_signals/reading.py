"""Reading: what the encoder and all heads say of one text."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from flaxen.learned_signals.head import HeadStack
from flaxen.learned_signals.windows import Vectors, Windows


class Reading:
    """A text's vectors, and what heads make of them when that is asked for: all in one product.

    Args:
      windows: of the text.
      heads: all of the encoder.
    """

    def __init__(self, windows: Windows, heads: HeadStack) -> None:
        self._windows, self._heads = windows, heads

    @property
    def pooled(self) -> Vectors:
        """The vector of the whole text, [dimensions], of length 1."""
        return self._windows.pooled

    @cached_property
    def _logits(self) -> dict[str, Vectors]:
        rows = np.concatenate([self._windows.vectors, self.pooled[None]])
        return dict(self._heads.logits(rows))

    def probabilities(self, name: str) -> Vectors:
        """A head's probabilities [rows, labels]: a row for each window, or one for the whole."""
        head = self._heads.heads[name]
        logits = self._logits[name]
        return head.probabilities(logits[:-1] if head.reads_windows else logits[-1:])
