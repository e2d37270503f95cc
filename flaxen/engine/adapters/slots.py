"""Which adapter is in which slot of the device's stack, and whose turn it is to get one.

An adapter that some sequence runs with is pinned to its slot. The others stay where they are
until a slot is needed; then the least recently used one leaves.

Knows: adapters' identities, counts. Deliberately does not know: sequences, weights, JAX.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

from flaxen.engine.adapters.store import ServedAdapter


class AdapterSlots:
    """The slots 0 to num_slots - 1.

    Args:
      num_slots: adapters that can run at once; 0 if none can.
    """

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._own_num_slots = num_slots
        self._fixed: list[ServedAdapter] | None = None
        self._pins: Counter[ServedAdapter] = Counter()  # sequences that run with each; none at 0
        self.reset()

    def reset(self) -> None:
        """Forgets what the slots hold: the device lost it. Nothing may be pinned."""
        assert not self._pins, "a slot is pinned"
        self._slot_of = {each: slot for slot, each in enumerate(self._fixed or ())}
        self._idle: OrderedDict[ServedAdapter, None] = OrderedDict.fromkeys(self._slot_of)
        self._empty = list(reversed(range(len(self._slot_of), self.num_slots)))

    def fix(self, adapters: list[ServedAdapter] | None) -> None:
        """Takes over a stack that holds these, one a slot, for good; None: has its own again."""
        self._fixed = adapters
        self.num_slots = self._own_num_slots if adapters is None else len(adapters)
        self.reset()

    def holds(self, adapter: ServedAdapter) -> bool:
        """Whether the adapter is in a slot."""
        return adapter in self._slot_of

    def has_room(self) -> bool:
        """Whether an adapter that is in no slot could be pinned now."""
        return bool(self._empty or self._idle)

    def pin(self, adapter: ServedAdapter) -> tuple[int, bool]:
        """Keeps an adapter in a slot for one more sequence. It must hold it, or have room.

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
        """One sequence less runs with the adapter."""
        self._pins[adapter] -= 1
        if not self._pins[adapter]:
            del self._pins[adapter]
            self._idle[adapter] = None

    def pinned(self) -> tuple[ServedAdapter, ...]:
        """Those that sequences run with."""
        return tuple(self._pins)

    def _evict(self) -> int:
        oldest, _ = self._idle.popitem(last=False)
        return self._slot_of.pop(oldest)

    def turns(self) -> Turns:
        """For one pass over the waiting."""
        return Turns(self)

    def least_pinned(self, but: set[ServedAdapter]) -> ServedAdapter | None:
        """The pinned adapter that the fewest sequences run with, of those not in `but`."""
        others = (adapter for adapter in self._pins if adapter not in but)
        return min(others, key=self._pins.__getitem__, default=None)


class Turns:
    """Who may have a slot now, asked for the waiting one after the other, in order of arrival.

    One that can't have a slot is passed by others, but not for ever: for each adapter that wants a
    slot, one that is pinned must give up its own. Nobody who came later joins it, so it has no
    sequences in the end. It is the one with the fewest, whose number therefore never grows.
    """

    def __init__(self, slots: AdapterSlots) -> None:
        self._slots = slots
        self._held: set[ServedAdapter] = set()  # those that want a slot, and those that leave one

    def may_run(self, adapter: ServedAdapter | None) -> bool:
        """Whether a sequence with this adapter can be admitted, as far as slots go."""
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
