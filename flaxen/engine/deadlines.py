"""A queue of deadlines. Deliberately does not know requests, nor the time."""

from __future__ import annotations

import heapq
from itertools import count
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Deadlines(Generic[Item]):
    """Finds items that are due without looking at the others: there may be ten thousand."""

    def __init__(self) -> None:
        # A heap of (due time, unique number, item).
        self._heap: list[tuple[float, int, Item]] = []
        self._serials = count()

    def add(self, due_s: float, item: Item) -> None:
        """Adds an item, which stays until it is due."""
        heapq.heappush(self._heap, (due_s, next(self._serials), item))

    def pop_due(self, now_s: float) -> list[Item]:
        """Removes and returns items that are due, the earliest first."""
        due = []
        while self._heap and self._heap[0][0] <= now_s:
            due.append(heapq.heappop(self._heap)[2])
        return due
