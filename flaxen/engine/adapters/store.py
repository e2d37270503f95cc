"""The adapters that an engine knows, by name, in the host's memory or where they are read from.

A request gets its adapter once, when it is checked, and keeps it: unloading a name, or giving it
other weights, changes nothing for those that have it. Deliberately does not know: slots, the
device, what is in an adapter's weights or files.
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

from flaxen.protocol import AdapterSource, AdapterWeights, UnknownAdapterError

_NUM_HELD = 16  # adapters that can be read again and stay in memory, where no limit is set


@dataclass(frozen=True, kw_only=True, eq=False)
class ServedAdapter:
    """One adapter under its name. Two of one name, loaded one after the other, are not equal."""

    name: str
    rank: int
    weights: AdapterWeights | None  # None: those of a slot that someone else fills
    key: str  # of its cached prefixes; never used again for other weights


@dataclass(kw_only=True, eq=False)
class _Known:
    """A name, and its adapter while that is in memory."""

    name: str
    rank: int
    created: int  # seconds since 1970
    source: AdapterSource | None = None  # None: the weights can't be read again, and stay
    held: ServedAdapter | None = None
    # The last one that was held: as long as anybody uses it, it need not be read again.
    last: weakref.ref[ServedAdapter] | None = None
    reading: threading.Lock = field(default_factory=threading.Lock)  # by one thread at a time

    @property
    def in_memory(self) -> ServedAdapter | None:
        """The adapter, if it need not be read."""
        if self.held is None and self.last is not None:
            return self.last()
        return self.held


@dataclass(frozen=True, kw_only=True)
class KnownAdapter:
    """An adapter as a client sees it."""

    name: str
    rank: int
    created: int  # seconds since 1970
    in_memory: ServedAdapter | None


class AdapterStore:
    """All adapters of an engine. Any thread may call.

    Those that are registered with a source are read when they are first used; when more are in
    memory than may be, the least recently used of them leave it, and are read again when needed.

    Args:
      max_adapters: in memory at once, at most, beside those in use; None is any number, and of
        those that can be read again 16.
      check: raises ValueError for weights that can't be served.
    """

    def __init__(self, max_adapters: int | None, check: Callable[[AdapterWeights], None]) -> None:
        self._max_adapters, self._check = max_adapters, check
        self._lock = threading.Lock()  # guards all below
        self._known: dict[str, _Known] = {}
        self._used: dict[str, None] = {}  # names that have a source, least recently used first
        self._generations = itertools.count()
        self._is_fixed = False

    def load(self, name: str, weights: AdapterWeights, *, load_inplace: bool = False) -> None:
        """Makes an adapter known, which stays in memory.

        Raises:
          ValueError: as EngineClient.load_adapter.
        """
        _check_name(name)
        self._check(weights)
        with self._lock:
            self._check_room(name, load_inplace)
            rank = weights.config.rank
            self._known[name] = _Known(
                name=name,
                rank=rank,
                created=int(time.time()),
                held=self._served(name, rank, weights),
            )
            self._make_room()

    def register(self, name: str, source: AdapterSource) -> None:
        """Makes an adapter known, which is read when it is first used.

        Raises:
          ValueError: as EngineClient.register_adapter.
        """
        _check_name(name)
        with self._lock:
            self._check_not_fixed()
            if name in self._known and self._known[name].source is None:
                raise ValueError(f"the name {name!r} is that of an adapter that was loaded")
            self._known[name] = _Known(
                name=name, rank=source.rank, created=source.created, source=source
            )
            self._used[name] = None

    def unload(self, name: str) -> None:
        """Forgets an adapter; of one that can be read again only the weights.

        Raises:
          ValueError: no adapter has this name, or it can't be unloaded.
        """
        with self._lock:
            self._check_not_fixed()
            known = self._get(name)
            if known.source is None:
                del self._known[name]
            else:
                known.held = known.last = None

    def remove(self, name: str) -> None:
        """Forgets an adapter, also one that can be read again.

        Raises:
          ValueError: as unload.
        """
        with self._lock:
            self._check_not_fixed()
            self._get(name)
            del self._known[name]
            self._used.pop(name, None)

    def find(self, name: str) -> ServedAdapter:
        """The adapter of a name, read in the caller's thread if it is not in memory.

        It can be had again without reading for as long as the caller keeps it.

        Raises:
          UnknownAdapterError: there is none.
          ValueError: what was read can't be served.
          OSError: it can't be read.
        """
        with self._lock:
            known = self._get(name)
            if known.in_memory is not None:
                return self._use(known, known.in_memory)
        with known.reading:
            with self._lock:
                if known.in_memory is not None:  # another thread was faster
                    return self._use(known, known.in_memory)
            assert known.source is not None, "others are always in memory"
            weights = known.source.read()
            self._check(weights)
            with self._lock:
                if self._known.get(name) is not known:  # removed while it was read
                    raise UnknownAdapterError(self._unknown(name))
                return self._use(known, self._served(name, weights.config.rank, weights))

    def renew(self, adapter: ServedAdapter) -> ServedAdapter:
        """The adapter to serve a request with that was checked with this one; nothing is read.

        It is the same one, unless a trainer's stack holds it or took its place: then it is the one
        that has its name now.

        Raises:
          UnknownAdapterError: none in memory has its name.
        """
        if adapter.weights is not None and not self._is_fixed:
            return adapter
        with self._lock:
            known = self._get(adapter.name)
            if known.in_memory is None:
                raise UnknownAdapterError(self._unknown(adapter.name))
            return known.in_memory

    def known(self) -> tuple[KnownAdapter, ...]:
        """Those that requests may name, in the order in which they became known."""
        with self._lock:
            return tuple(
                KnownAdapter(
                    name=each.name, rank=each.rank, created=each.created, in_memory=each.in_memory
                )
                for each in self._known.values()
            )

    def fix(self, names: tuple[str, ...], rank: int) -> list[ServedAdapter]:
        """Replaces all by those of a stack that is not the engine's own; from then on none changes.

        Args:
          names: in the stack's order; none ends it.
          rank: of the stack.
        """
        with self._lock:
            self._is_fixed = bool(names)
            served = [self._served(name, rank, None) for name in names]
            now = int(time.time())
            self._known = {
                each.name: _Known(name=each.name, rank=rank, created=now, held=each)
                for each in served
            }
            self._used = {}
            return served

    def _served(self, name: str, rank: int, weights: AdapterWeights | None) -> ServedAdapter:
        key = f"{name}#{next(self._generations)}"
        return ServedAdapter(name=name, rank=rank, weights=weights, key=key)

    def _get(self, name: str) -> _Known:
        known = self._known.get(name)
        if known is None:
            raise UnknownAdapterError(self._unknown(name))
        return known

    def _use(self, known: _Known, served: ServedAdapter) -> ServedAdapter:
        """Holds an adapter, as the one that was used last."""
        known.held = served
        if known.source is not None:
            known.last = weakref.ref(served)
            self._used.pop(known.name, None)
            self._used[known.name] = None
            self._make_room()
        return served

    def _make_room(self) -> None:
        """Lets go of those that can be read again, until no more are held than may be."""
        held = [self._known[name] for name in self._used if self._known[name].held is not None]
        limit = _NUM_HELD
        if self._max_adapters is not None:
            limit = max(0, self._max_adapters - (len(self._known) - len(self._used)))
        for known in held[: len(held) - limit] if len(held) > limit else ():
            known.held = None

    def _check_room(self, name: str, load_inplace: bool) -> None:
        self._check_not_fixed()
        if name in self._used:
            raise ValueError(
                f"the name {name!r} is that of a registered adapter: load it under another"
            )
        num_loaded = len(self._known) - len(self._used)
        if name in self._known:
            if not load_inplace:
                raise ValueError(
                    f"the adapter {name!r} has already been loaded: unload it first, or load it "
                    "with load_inplace"
                )
        elif self._max_adapters is not None and num_loaded >= self._max_adapters:
            raise ValueError(
                f"{num_loaded} adapters are loaded, as many as max_cpu_loras allows: unload one, "
                "or raise it"
            )

    def _check_not_fixed(self) -> None:
        if self._is_fixed:
            raise ValueError(
                "the engine serves a trainer's stack of adapters: give it another stack instead"
            )

    def _unknown(self, name: str) -> str:
        known = ", ".join(map(repr, self._known)) or "none"
        return f"there is no adapter {name[:80]!r}: loaded are {known[:400]}"


def _check_name(name: str) -> None:
    if not name or not name.isprintable():
        raise ValueError(f"an adapter's name must be printable text, got {name!r}")
