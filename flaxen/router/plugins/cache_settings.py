"""The settings of the plugin response_cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flaxen.router.checks import check_at_least, check_between


@dataclass(frozen=True, kw_only=True)
class SemanticCache:
    """How similar a request must be to an earlier one."""

    similarity_threshold: float | None = None

    def __post_init__(self) -> None:
        check_between("similarity_threshold", self.similarity_threshold, 0, 1)


@dataclass(frozen=True, kw_only=True)
class CacheControls:
    """What clients may ask of the cache, by a header."""

    enabled: bool = False
    header: str = "x-vsr-cache-control"
    allowed: tuple[str, ...] = ("no-cache", "no-store", "bypass")
    max_ttl_seconds: int | None = None


@dataclass(frozen=True, kw_only=True)
class CacheRevision:
    """Names of versions; entries of others are not found."""

    cache_epoch: str = ""
    model_revision: str = ""
    prompt_revision: str = ""
    policy_revision: str = ""


@dataclass(frozen=True, kw_only=True)
class ResponseCache:
    """Answers from earlier answers to the same or similar requests."""

    enabled: bool = True
    mode: Literal["semantic", "exact", "exact_then_semantic"] = "semantic"
    scope: Literal["user", "team", "tenant", "global"] = "user"
    semantic: SemanticCache = SemanticCache()
    ttl_seconds: int | None = None
    request_controls: CacheControls = CacheControls()
    revision: CacheRevision = CacheRevision()
    similarity_threshold: float | None = None  # the older place of semantic.similarity_threshold

    def __post_init__(self) -> None:
        check_at_least("ttl_seconds", self.ttl_seconds, 0)
        check_between("similarity_threshold", self.similarity_threshold, 0, 1)
        if None not in (self.similarity_threshold, self.semantic.similarity_threshold):
            raise ValueError("similarity_threshold stands twice: keep the one in semantic")
