"""What happens when a model does not answer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from flaxen.router.checks import Limited, limited, to_seconds


@dataclass(frozen=True, kw_only=True)
class CircuitBreaker(Limited):
    """When a model that fails is left alone, and for how long."""

    consecutive_failures: int = limited(5, 1)
    cooldown_period: int | str = "30s"
    half_open_probes: int = limited(1, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.cooldown_s

    @cached_property  # read for each request
    def cooldown_s(self) -> float:
        return to_seconds("cooldown_period", self.cooldown_period)


@dataclass(frozen=True, kw_only=True)
class Fallback(Limited):
    """What happens when a model fails before its first byte: others of the decision are tried."""

    version: int = 1
    enabled: bool = True
    max_attempts: int = limited(3, 1)
    total_timeout: int | str = "300s"
    per_attempt_timeout: int | str = "300s"
    retryable_status_codes: tuple[int, ...] = (429, 500, 502, 503, 504)
    circuit_breaker: CircuitBreaker = CircuitBreaker()

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.total_s, self.per_attempt_s) <= 0:
            raise ValueError("total_timeout and per_attempt_timeout must be above 0s")

    @cached_property
    def total_s(self) -> float:
        return to_seconds("total_timeout", self.total_timeout)

    @cached_property
    def per_attempt_s(self) -> float:
        return to_seconds("per_attempt_timeout", self.per_attempt_timeout)
