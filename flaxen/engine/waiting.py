"""The sequences that wait to run. Deliberately does not know what any of them needs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import count, takewhile

from flaxen.engine.sequence import Sequence


class Waiting:
    """The waiting sequences, in order of arrival."""

    def __init__(self) -> None:
        self._sequences: OrderedDict[Sequence, None] = OrderedDict()  # any can leave in O(1)
        self._orders = count()

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    def snapshot(self) -> tuple[Sequence, ...]:
        """All of them. Any thread may call."""
        return tuple(self._sequences)  # copied in one piece

    def add(self, sequence: Sequence) -> None:
        """Puts a new sequence behind all others."""
        sequence.order = next(self._orders)
        self._sequences[sequence] = None

    def put_back(self, sequence: Sequence) -> None:
        """Puts a sequence that ran where it was, so that those it was overtaken by come later."""
        older = list(takewhile(lambda other: other.order < sequence.order, self._sequences))
        self._sequences[sequence] = None
        for each in (sequence, *reversed(older)):
            self._sequences.move_to_end(each, last=False)

    def remove(self, sequence: Sequence) -> None:
        """Takes a sequence out; one that is not there is ignored."""
        self._sequences.pop(sequence, None)
