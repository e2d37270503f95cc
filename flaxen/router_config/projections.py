"""Projections as the file has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flaxen.router.checks import check_named
from flaxen.router.signals.predicate import Predicate


@dataclass(frozen=True, kw_only=True)
class PartitionShape:
    """Domains or embeddings of which one stays."""

    name: str
    semantics: Literal["", "exclusive", "softmax_exclusive"] = ""
    temperature: float | None = None
    members: tuple[str, ...]
    default: str

    def __post_init__(self) -> None:
        is_softmax = self.semantics == "softmax_exclusive"
        if is_softmax and (self.temperature is None or self.temperature <= 0):
            raise ValueError(
                f"softmax_exclusive needs a temperature above 0, got {self.temperature}"
            )
        if not is_softmax and self.temperature is not None:
            raise ValueError("temperature belongs to semantics softmax_exclusive")
        if self.default not in self.members:
            raise ValueError(f"default {self.default!r} must be one of the members")


@dataclass(frozen=True, kw_only=True)
class ScoreInputShape:
    """A term of a score."""

    type: str
    name: str
    weight: float
    value_source: Literal["", "binary", "raw", "confidence"] = ""
    match: float = 1.0
    miss: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ScoreShape:
    """A weighted sum."""

    name: str
    method: Literal["weighted_sum"] = "weighted_sum"
    inputs: tuple[ScoreInputShape, ...]

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValueError("a score needs inputs: without any it is 0 for every request")


@dataclass(frozen=True, kw_only=True)
class OutputShape:
    """A name for a range of a score."""

    name: str
    lt: float | None = None
    lte: float | None = None
    gt: float | None = None
    gte: float | None = None

    def __post_init__(self) -> None:
        check_named("name", self.name)
        _ = self.within

    @property
    def within(self) -> Predicate | None:
        bounds = {"gt": self.gt, "gte": self.gte, "lt": self.lt, "lte": self.lte}
        given = {name: bound for name, bound in bounds.items() if bound is not None}
        return Predicate(**given) if given else None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The slope of an output's confidence."""

    method: str = ""
    slope: float = 0.0


@dataclass(frozen=True, kw_only=True)
class MappingShape:
    """Names for the ranges of a score."""

    name: str
    source: str
    method: Literal["threshold_bands", "multi_emit"] = "threshold_bands"
    calibration: Calibration = Calibration()
    outputs: tuple[OutputShape, ...]


@dataclass(frozen=True, kw_only=True)
class ProjectionsShape:
    """All projections of a recipe."""

    partitions: tuple[PartitionShape, ...] = ()
    scores: tuple[ScoreShape, ...] = ()
    mappings: tuple[MappingShape, ...] = ()
