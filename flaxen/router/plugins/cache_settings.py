"""The settings of the plugin response_cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from flaxen.router.checks import Limited, limited
from flaxen.router.plugins.reply import PluginError


@dataclass(frozen=True, kw_only=True)
class SemanticCache(Limited):
    """How similar a request must be to an earlier one."""

    similarity_threshold: float | None = limited(None, 0, 1)


@dataclass(frozen=True, kw_only=True)
class CacheControls:
    """What clients may ask of the cache, by a header."""

    enabled: bool = False
    header: str = "x-vsr-cache-control"
    allowed: tuple[str, ...] = ("no-cache", "no-store", "bypass")
    max_ttl_seconds: int | None = None


@dataclass(frozen=True)
class Controls:
    """What one request asks of the cache: whether its answer may come from there and be kept, for
    how many seconds, and how old it may be."""

    reads: bool = True
    writes: bool = True
    ttl_s: float | None = None
    max_age_s: float | None = None


def controls_of(settings: CacheControls, headers: Mapping[str, str]) -> Controls:
    """What the header of a request says, as `no-store, ttl=60`.

    Raises:
      PluginError: it says something that the configuration does not allow.
    """
    text = headers.get(settings.header.lower(), "") if settings.enabled else ""
    given = dict(
        each.strip().lower().partition("=")[::2] for each in text.split(",") if each.strip()
    )
    numbers = {name: given[name] for name in ("max-age", "ttl") if name in given}
    wrong = [name for name in given if name not in settings.allowed]
    if wrong or not all(value.isdecimal() for value in numbers.values()):
        raise PluginError(
            f"{settings.header} may be {', '.join(settings.allowed)} (max-age and ttl with seconds "
            f"behind =), got {text!r}"
        )
    age, ttl = (float(numbers[name]) if name in numbers else None for name in ("max-age", "ttl"))
    if ttl is not None and settings.max_ttl_seconds is not None:
        ttl = min(ttl, settings.max_ttl_seconds)
    reads, writes = (not given.keys() & {name, "bypass"} for name in ("no-cache", "no-store"))
    return Controls(reads, writes, ttl, age)


@dataclass(frozen=True, kw_only=True)
class CacheRevision:
    """Names of versions; entries of others are not found."""

    cache_epoch: str = ""
    model_revision: str = ""
    prompt_revision: str = ""
    policy_revision: str = ""


@dataclass(frozen=True, kw_only=True)
class ResponseCache(Limited):
    """Answers from earlier answers to the same or similar requests."""

    enabled: bool = True
    mode: Literal["semantic", "exact", "exact_then_semantic"] = "semantic"
    scope: Literal["user", "team", "tenant", "global"] = "user"
    semantic: SemanticCache = SemanticCache()
    ttl_seconds: int | None = limited(None, 0)
    request_controls: CacheControls = CacheControls()
    revision: CacheRevision = CacheRevision()
    # The older place of semantic.similarity_threshold.
    similarity_threshold: float | None = limited(None, 0, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if None not in (self.similarity_threshold, self.semantic.similarity_threshold):
            raise ValueError("similarity_threshold stands twice: keep the one in semantic")

    @property
    def compares(self) -> bool:
        """Whether answers to similar requests count, not only those to the same."""
        return self.enabled and self.mode != "exact"

    def threshold(self, default: float) -> float:
        """The least similarity, or the default of the store."""
        given = (self.semantic.similarity_threshold, self.similarity_threshold)
        return next((each for each in given if each is not None), default)

    def ttl_s(self, controls: Controls, default: float) -> float:
        """For how many seconds an answer is kept: a request can only shorten that."""
        own = default if self.ttl_seconds is None else self.ttl_seconds
        return min(own, own if controls.ttl_s is None else controls.ttl_s)
