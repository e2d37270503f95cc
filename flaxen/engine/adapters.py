"""The adapters that an engine knows, by name, in the host's memory.

A request gets its adapter once, when it is checked, and keeps it: unloading a name, or giving it
other weights, changes nothing for those that have it. Deliberately does not know: slots, the
device, what is in an adapter's weights.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from flaxen.protocol import AdapterWeights, FieldError


@dataclass(frozen=True, kw_only=True, eq=False)
class ServedAdapter:
    """One adapter under its name. Two of one name, loaded one after the other, are not equal."""

    name: str
    rank: int
    weights: AdapterWeights | None  # None: those of a slot that someone else fills
    key: str  # of its cached prefixes; never used again for other weights
    created: int = field(default_factory=lambda: int(time.time()))  # seconds since 1970


class AdapterStore:
    """All adapters of an engine. Any thread may call.

    Args:
      max_adapters: known at once, at most; None is any number.
      check: raises ValueError for weights that can't be served.
    """

    def __init__(self, max_adapters: int | None, check: Callable[[AdapterWeights], None]) -> None:
        self._max_adapters, self._check = max_adapters, check
        self._lock = threading.Lock()  # guards all below
        self._known: dict[str, ServedAdapter] = {}
        self._generations = itertools.count()
        self._is_fixed = False

    def load(self, name: str, weights: AdapterWeights, *, load_inplace: bool = False) -> None:
        """Makes an adapter known.

        Raises:
          ValueError: as EngineClient.load_adapter.
        """
        if not name or not name.isprintable():
            raise ValueError(f"an adapter's name must be printable text, got {name!r}")
        self._check(weights)
        with self._lock:
            self._check_room(name, load_inplace)
            self._known[name] = self._served(name, weights.config.rank, weights)

    def unload(self, name: str) -> None:
        """Forgets an adapter.

        Raises:
          ValueError: no adapter has this name, or it can't be unloaded.
        """
        with self._lock:
            self._check_not_fixed()
            if self._known.pop(name, None) is None:
                raise ValueError(self._unknown(name))

    def find(self, name: str) -> ServedAdapter:
        """The adapter of a name.

        Raises:
          FieldError: there is none.
        """
        with self._lock:
            found = self._known.get(name)
            if found is None:
                raise FieldError("adapter", self._unknown(name))
            return found

    def known(self) -> tuple[ServedAdapter, ...]:
        """Those that requests may name, in the order in which they were loaded."""
        with self._lock:
            return tuple(self._known.values())

    def fix(self, names: tuple[str, ...], rank: int) -> list[ServedAdapter]:
        """Replaces all by those of a stack that is not the engine's own; from then on none changes.

        Args:
          names: in the stack's order; none ends it.
          rank: of the stack.
        """
        with self._lock:
            self._is_fixed = bool(names)
            self._known = {name: self._served(name, rank, None) for name in names}
            return list(self._known.values())

    @property
    def is_fixed(self) -> bool:
        """Whether the adapters are those of another's stack."""
        return self._is_fixed

    def _served(self, name: str, rank: int, weights: AdapterWeights | None) -> ServedAdapter:
        key = f"{name}#{next(self._generations)}"
        return ServedAdapter(name=name, rank=rank, weights=weights, key=key)

    def _check_room(self, name: str, load_inplace: bool) -> None:
        self._check_not_fixed()
        if name in self._known:
            if not load_inplace:
                raise ValueError(
                    f"the adapter {name!r} has already been loaded: unload it first, or load it "
                    "with load_inplace"
                )
        elif self._max_adapters is not None and len(self._known) >= self._max_adapters:
            raise ValueError(
                f"{len(self._known)} adapters are loaded, as many as max_cpu_loras allows: unload "
                "one, or raise it"
            )

    def _check_not_fixed(self) -> None:
        if self._is_fixed:
            raise ValueError(
                "the engine serves a trainer's stack of adapters: give it another stack instead"
            )

    def _unknown(self, name: str) -> str:
        known = ", ".join(map(repr, self._known)) or "none"
        return f"there is no adapter {name[:80]!r}: loaded are {known[:400]}"
