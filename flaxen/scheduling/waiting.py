"""The queue of waiting sequences. Deliberately does not know what they need."""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain, count, takewhile

from flaxen.scheduling.sequence import Sequence

_Queue = OrderedDict[Sequence, None]  # removal in O(1)


class Waiting:
    """The waiting sequences: those of the lowest priority first, and of these in order of arrival.

    Almost always there is one priority, so that the queues are one.
    """

    def __init__(self) -> None:
        self._all: dict[Sequence, None] = {}
        self._queues: dict[int, _Queue] = {}  # by priority; none is empty
        self._priorities: list[int] = []  # of the queues, ascending
        self._orders = count()

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Sequence]:
        return chain.from_iterable(self._queues[priority] for priority in self._priorities)

    def snapshot(self) -> tuple[Sequence, ...]:
        """All waiting sequences, in any order. Safe to call from any thread."""
        return tuple(self._all)  # copied atomically

    def add(self, sequence: Sequence) -> None:
        """Appends a new sequence."""
        sequence.order = next(self._orders)
        self._queue_of(sequence)[sequence] = None
        self._all[sequence] = None

    def put_back(self, sequence: Sequence) -> None:
        """Reinserts a preempted sequence by its order of arrival, so that later ones of its
        priority do not overtake it.
        """
        queue = self._queue_of(sequence)
        older = list(takewhile(lambda other: other.order < sequence.order, queue))
        queue[sequence] = self._all[sequence] = None
        for each in (sequence, *reversed(older)):
            queue.move_to_end(each, last=False)

    def remove(self, sequence: Sequence) -> None:
        """Removes a sequence; ignored if it is not waiting."""
        if sequence not in self._all:
            return
        del self._all[sequence]
        queue = self._queues[sequence.priority]
        del queue[sequence]
        if not queue:
            del self._queues[sequence.priority]
            self._priorities.remove(sequence.priority)

    def _queue_of(self, sequence: Sequence) -> _Queue:
        priority = sequence.priority
        if priority not in self._queues:
            self._queues[priority] = OrderedDict()
            insort(self._priorities, priority)
        return self._queues[priority]
