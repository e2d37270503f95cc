"""Decides which adapter is in which slot of the device's stack, and which one gets a slot next.

The adapter of a running sequence is pinned to its slot. Other adapters stay in theirs until a slot
is needed; then the least recently used one is evicted.

Knows: adapters' identities, counts. Deliberately does not know: sequences, weights, JAX.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

from flaxen.scheduling.adapters.store import ServedAdapter


class AdapterSlots:
    """The slots 0 to num_slots - 1.

    Args:
      num_slots: the number of adapters that can run at once; 0 for none.
    """

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._own_num_slots = num_slots
        self._fixed: list[ServedAdapter] | None = None
        # Adapter -> number of running sequences, if above 0.
        self._pins: Counter[ServedAdapter] = Counter()
        self.reset()

    def reset(self) -> None:
        """Empties the slots, because the device lost their contents. No adapter may be pinned."""
        assert not self._pins, "a slot is pinned"
        self._slot_of = {each: slot for slot, each in enumerate(self._fixed or ())}
        self._idle: OrderedDict[ServedAdapter, None] = OrderedDict.fromkeys(self._slot_of)
        self._empty = list(reversed(range(len(self._slot_of), self.num_slots)))

    def serve_stack(self, adapters: list[ServedAdapter] | None) -> None:
        """Serves a stack with these adapters, one in each slot, without eviction; None ends it."""
        self._fixed = adapters
        self.num_slots = self._own_num_slots if adapters is None else len(adapters)
        self.reset()

    def holds(self, adapter: ServedAdapter) -> bool:
        """Whether the adapter is in a slot."""
        return adapter in self._slot_of

    def has_room(self) -> bool:
        """Whether an adapter that is not in a slot could be pinned now."""
        return bool(self._empty or self._idle)

    def pin(self, adapter: ServedAdapter) -> tuple[int, bool]:
        """Pins an adapter to a slot for one more sequence. It must be in a slot, or there must be
        room.

        Returns:
          The slot, and whether it must be filled with the adapter first.
        """
        slot = self._slot_of.get(adapter)
        must_fill = slot is None
        if slot is None:
            slot = self._empty.pop() if self._empty else self._evict()
            self._slot_of[adapter] = slot
        self._idle.pop(adapter, None)
        self._pins[adapter] += 1
        return slot, must_fill

    def unpin(self, adapter: ServedAdapter) -> None:
        """Decrements the number of running sequences with the adapter."""
        self._pins[adapter] -= 1
        if not self._pins[adapter]:
            del self._pins[adapter]
            self._idle[adapter] = None

    def pinned(self) -> tuple[ServedAdapter, ...]:
        """The adapters of running sequences."""
        return tuple(self._pins)

    def _evict(self) -> int:
        oldest, _ = self._idle.popitem(last=False)
        return self._slot_of.pop(oldest)

    def queue(self) -> SlotQueue:
        """Starts one pass over the waiting sequences."""
        return SlotQueue(self)

    def least_pinned(self, but: set[ServedAdapter]) -> ServedAdapter | None:
        """The pinned adapter with the fewest running sequences, except those in `but`."""
        others = (adapter for adapter in self._pins if adapter not in but)
        return min(others, key=self._pins.__getitem__, default=None)


class SlotQueue:
    """Decides, for the waiting sequences in order of arrival, which ones may get a slot now.

    A sequence whose adapter can't get a slot is overtaken, but not for ever: for each adapter that
    needs a slot, one pinned adapter must leave. No later sequence is admitted with that adapter, so
    finally it has no running sequence. It is the pinned adapter with the fewest running sequences,
    and their number never grows.
    """

    def __init__(self, slots: AdapterSlots) -> None:
        self._slots = slots
        # Adapters that need a slot, and those that must leave theirs.
        self._held: set[ServedAdapter] = set()

    def may_run(self, adapter: ServedAdapter | None) -> bool:
        """Whether the slots allow admitting a sequence with this adapter."""
        if adapter is None:
            return True
        if adapter in self._held:
            return False
        if self._slots.holds(adapter) or self._slots.has_room():
            return True
        self._held.add(adapter)
        leaving = self._slots.least_pinned(self._held)
        if leaving is not None:
            self._held.add(leaving)
        return False
