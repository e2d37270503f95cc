"""The adapters of an engine by name, in host memory or with the source to read them from.

A request gets its adapter once, when it is checked, and keeps it: unloading a name, or loading
other weights under it, does not affect requests that have the adapter. Deliberately does not know:
slots, the device, the contents of an adapter's weights or files.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

from flaxen.protocol import AdapterSource, AdapterWeights, UnknownAdapterError

_NUM_HELD = 16  # re-readable adapters in memory, if no limit is set


@dataclass(frozen=True, kw_only=True, eq=False)
class ServedAdapter:
    """One adapter with its name. Two adapters loaded one after the other are never equal."""

    name: str
    rank: int
    weights: AdapterWeights | None  # None: the weights are in a trainer's stack
    key: str  # part of the hashes of its cached prefixes; unique to these weights


@dataclass(kw_only=True, eq=False)
class _Known:
    """A name, and its adapter while it is in memory."""

    name: str
    rank: int
    created: int  # seconds since 1970
    # None: the weights can't be read again, so they stay in memory.
    source: AdapterSource | None = None
    held: ServedAdapter | None = None
    # The adapter that was evicted last: as long as a request uses it, it need not be read again.
    last: weakref.ref[ServedAdapter] | None = None
    # Held by the thread that reads the adapter.
    reading: threading.Lock = field(default_factory=threading.Lock)

    @property
    def in_memory(self) -> ServedAdapter | None:
        """The adapter if it is in memory, else None."""
        if self.held is None and self.last is not None:
            return self.last()
        return self.held


@dataclass(frozen=True, kw_only=True)
class KnownAdapter:
    """An adapter as clients see it."""

    name: str
    rank: int
    created: int  # seconds since 1970
    in_memory: ServedAdapter | None


class AdapterStore:
    """All adapters of an engine. Safe to call from any thread.

    Adapters that are registered with a source are read at their first use. If too many are in
    memory, the least recently used ones with a source are evicted, and read again when needed.

    Args:
      max_adapters: the most adapters in memory besides those in use; None is no limit, except 16
          for adapters with a source.
      check: raises ValueError for weights that can't be served.
      content_key: names weights by their content, so that stored pages are found by it; None names
        each load anew.
    """

    def __init__(
        self,
        max_adapters: int | None,
        check: Callable[[AdapterWeights], None],
        content_key: Callable[[AdapterWeights], str] | None = None,
    ) -> None:
        self._max_adapters, self._check, self._content_key = max_adapters, check, content_key
        self._lock = threading.Lock()  # guards everything below
        self._known: dict[str, _Known] = {}
        self._used: dict[str, None] = {}  # names with a source, least recently used first
        self._generations = itertools.count()
        self._process = secrets.token_hex(8)  # no other process finds pages by these keys
        self._is_fixed = False

    def load(self, name: str, weights: AdapterWeights, *, load_inplace: bool = False) -> None:
        """Loads an adapter, which stays in memory.

        Raises:
          ValueError: as in EngineClient.load_adapter.
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
        """Registers an adapter, which is read at its first use.

        Raises:
          ValueError: as in EngineClient.register_adapter.
        """
        _check_name(name)
        with self._lock:
            self._check_no_stack()
            if name in self._known and self._known[name].source is None:
                raise ValueError(f"the name {name!r} is that of an adapter that was loaded")
            self._known[name] = _Known(
                name=name, rank=source.rank, created=source.created, source=source
            )
            self._used[name] = None

    def unload(self, name: str) -> None:
        """Unloads an adapter. One with a source keeps its name, and only its weights are freed.

        Raises:
          ValueError: no adapter has this name, or it can't be unloaded.
        """
        with self._lock:
            self._check_no_stack()
            known = self._get(name)
            if known.source is None:
                del self._known[name]
            else:
                known.held = known.last = None

    def remove(self, name: str) -> None:
        """Removes an adapter with its name, even if it has a source.

        Raises:
          ValueError: as in unload.
        """
        with self._lock:
            self._check_no_stack()
            self._get(name)
            del self._known[name]
            self._used.pop(name, None)

    def find(self, name: str) -> ServedAdapter:
        """Finds the adapter of a name; reads it in the caller's thread if it is not in memory.

        While the caller keeps the result, the adapter need not be read again.

        Raises:
          UnknownAdapterError: no adapter has this name.
          ValueError: the adapter can't be served.
          OSError: the adapter can't be read.
        """
        with self._lock:
            known = self._get(name)
            if known.in_memory is not None:
                return self._use(known, known.in_memory)
        with known.reading:
            with self._lock:
                if known.in_memory is not None:  # another thread has read it meanwhile
                    return self._use(known, known.in_memory)
            assert known.source is not None, "others are always in memory"
            weights = known.source.read()
            self._check(weights)
            with self._lock:
                if self._known.get(name) is not known:  # removed while it was read
                    raise UnknownAdapterError(self._unknown(name))
                return self._use(known, self._served(name, weights.config.rank, weights))

    def current(self, adapter: ServedAdapter) -> ServedAdapter:
        """The adapter for a request that was checked with `adapter`; reads nothing.

        The result is `adapter` itself, unless a trainer's stack holds or replaced it: then it is
        the adapter that has its name now.

        Raises:
          UnknownAdapterError: no adapter in memory has its name.
        """
        if adapter.weights is not None and not self._is_fixed:
            return adapter
        with self._lock:
            known = self._get(adapter.name)
            if known.in_memory is None:
                raise UnknownAdapterError(self._unknown(adapter.name))
            return known.in_memory

    def known(self) -> tuple[KnownAdapter, ...]:
        """The adapters that requests may name, in the order of loading."""
        with self._lock:
            return tuple(
                KnownAdapter(
                    name=each.name, rank=each.rank, created=each.created, in_memory=each.in_memory
                )
                for each in self._known.values()
            )

    def serve_stack(self, names: tuple[str, ...], rank: int) -> list[ServedAdapter]:
        """Replaces all adapters by those of a trainer's stack; until that ends none can be loaded.

        Args:
          names: the names in the stack's order; () ends it.
          rank: the stack's rank.
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
        if self._content_key is None or weights is None:
            key = f"{self._process}/{name}#{next(self._generations)}"
        else:
            key = self._content_key(weights)
        return ServedAdapter(name=name, rank=rank, weights=weights, key=key)

    def _get(self, name: str) -> _Known:
        known = self._known.get(name)
        if known is None:
            raise UnknownAdapterError(self._unknown(name))
        return known

    def _use(self, known: _Known, served: ServedAdapter) -> ServedAdapter:
        """Marks an adapter as the most recently used one."""
        known.held = served
        if known.source is not None:
            known.last = weakref.ref(served)
            self._used.pop(known.name, None)
            self._used[known.name] = None
            self._make_room()
        return served

    def _make_room(self) -> None:
        """Evicts adapters with a source until the limit holds."""
        held = [self._known[name] for name in self._used if self._known[name].held is not None]
        limit = _NUM_HELD
        if self._max_adapters is not None:
            limit = max(0, self._max_adapters - (len(self._known) - len(self._used)))
        for known in held[: len(held) - limit] if len(held) > limit else ():
            known.held = None

    def _check_room(self, name: str, load_inplace: bool) -> None:
        self._check_no_stack()
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

    def _check_no_stack(self) -> None:
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
