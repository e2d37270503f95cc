"""Observed: what was seen of a model while it served: its latencies, and whether it fails.

Pure: the time is an argument, in seconds of any clock that does not go back.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Iterator, Mapping
from functools import cached_property

from flaxen.router.selection.candidate import Live
from flaxen.router_config.fallback import CircuitBreaker

_KEPT = 1_000  # observations, as in the public reference
_KEPT_S = 600.0  # older ones are left out, so that a model that was slow once is tried again


class Breaker:
    """The circuit of one model. It opens after some failures in a row; after the cooldown a few
    requests try the model, and one that succeeds closes it."""

    def __init__(self) -> None:
        self._num_failures = 0
        self._open_until: float | None = None  # None: closed
        self._num_probes = 0  # requests that try it while it is open

    def is_open(self, now: float, settings: CircuitBreaker) -> bool:
        """Whether no request may be sent now."""
        if self._open_until is None:
            return False
        return now < self._open_until or self._num_probes >= settings.half_open_probes

    def begin(self) -> bool:
        """A request is sent. Returns whether it is a probe, which `end` is told."""
        is_probe = self._open_until is not None
        self._num_probes += is_probe
        return is_probe

    def end(
        self, is_probe: bool, is_good: bool | None, now: float, settings: CircuitBreaker
    ) -> None:
        """The model answered, or failed; None: the request ended before it could."""
        self._num_probes -= is_probe
        if is_good:
            self._num_failures, self._open_until = 0, None
        elif is_good is False:
            self._num_failures += 1
            if is_probe or self._num_failures >= settings.consecutive_failures:
                self._open_until = now + settings.cooldown_s


class Latencies:
    """The latest latencies of one kind, in milliseconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=_KEPT)

    def add(self, now: float, milliseconds: float) -> None:
        """Takes one."""
        self._seen.append((now, milliseconds))

    def recent(self, now: float) -> list[float]:
        """Those that are not too old, the least first."""
        return sorted(value for at, value in self._seen if at >= now - _KEPT_S)


class Percentiles(Mapping[int, float]):
    """The percentiles 1..100 of what was seen, by the nearest rank, computed once one is read; none
    without data."""

    def __init__(self, latencies: Latencies, now: float) -> None:
        self._latencies, self._now = latencies, now

    @cached_property
    def _recent(self) -> list[float]:
        return self._latencies.recent(self._now)

    def __getitem__(self, percentile: int) -> float:
        if not self._recent:
            raise KeyError(percentile)
        return self._recent[math.ceil(percentile / 100 * len(self._recent)) - 1]

    def __iter__(self) -> Iterator[int]:
        return iter(range(1, 101) if self._recent else ())

    def __len__(self) -> int:
        return 100 if self._recent else 0


class Observed:
    """What was seen of one model."""

    def __init__(self) -> None:
        self.breaker = Breaker()
        self.num_in_flight = 0
        self.ttft, self.tpot = Latencies(), Latencies()

    @contextlib.contextmanager
    def in_flight(self) -> Iterator[None]:
        """Counts a request during the block."""
        self.num_in_flight += 1
        try:
            yield
        finally:
            self.num_in_flight -= 1

    def live(self, now: float, settings: CircuitBreaker) -> Live:
        """What a selection reads."""
        return Live(
            ttft_ms=Percentiles(self.ttft, now),
            tpot_ms=Percentiles(self.tpot, now),
            in_flight=self.num_in_flight,
            is_open=self.breaker.is_open(now, settings),
        )
