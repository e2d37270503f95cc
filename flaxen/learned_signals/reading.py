"""Reading: what the encoder and all heads say of one text."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property

import numpy as np

from flaxen.learned_signals.head import HeadStack
from flaxen.learned_signals.windows import Ids, Vectors, Windows

# Reads pieces of a text by themselves, [pieces, dimensions].
ReadAlone = Callable[[Sequence[Ids]], Awaitable[Vectors]]


class Reading:
    """A text's vectors, and what heads make of them when that is asked for: all in one product.

    Args:
      windows: of the text.
      heads: all of the encoder.
      alone: reads pieces of the text.
    """

    def __init__(self, windows: Windows, heads: HeadStack, alone: ReadAlone) -> None:
        self._windows, self._heads, self._alone = windows, heads, alone

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

    async def of_pieces(self, name: str) -> Vectors:
        """The probabilities [pieces, labels] of a head of harm, for those pieces that are suspect
        where they stand: read alone, so that what stands around them does not hide anything.

        Raises:
          EngineBusyError, EngineClosedError, EngineBrokenError, RuntimeError: as the encoder does.
        """
        head = self._heads.heads[name]
        suspects = head.suspects(self._windows.in_context)
        if not len(suspects):
            return np.zeros((0, len(head.labels)), np.float32)
        return head(await self._alone([self._windows.pieces[number] for number in suspects]))
