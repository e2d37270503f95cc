"""The queue of waiting sequences. Deliberately does not know what they need."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import count, takewhile

from flaxen.engine.sequence import Sequence


class Waiting:
    """The waiting sequences, in order of arrival."""

    def __init__(self) -> None:
        self._sequences: OrderedDict[Sequence, None] = OrderedDict()  # removal in O(1)
        self._orders = count()

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    def snapshot(self) -> tuple[Sequence, ...]:
        """All waiting sequences. Safe to call from any thread."""
        return tuple(self._sequences)  # copied atomically

    def add(self, sequence: Sequence) -> None:
        """Appends a new sequence."""
        sequence.order = next(self._orders)
        self._sequences[sequence] = None

    def put_back(self, sequence: Sequence) -> None:
        """Reinserts a preempted sequence by its order of arrival, so that later ones do not
        overtake it.
        """
        older = list(takewhile(lambda other: other.order < sequence.order, self._sequences))
        self._sequences[sequence] = None
        for each in (sequence, *reversed(older)):
            self._sequences.move_to_end(each, last=False)

    def remove(self, sequence: Sequence) -> None:
        """Removes a sequence; ignored if it is not waiting."""
        self._sequences.pop(sequence, None)
