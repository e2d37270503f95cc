"""Projections: groups of which one wins, weighted sums, and names for their ranges.

Deliberately does not know: requests; `known.py` computes these of what signals found.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from flaxen.router.decisions.tree import PROJECTION, SignalKey
from flaxen.router.signals.predicate import Predicate

DEFAULT_SLOPE = 12.0  # of the logistic curve of a mapping's confidence, as in the reference


@dataclass(frozen=True, kw_only=True)
class Partition:
    """Signals of one kind of which at most one stays matched: the most confident.

    Attributes:
      members: their keys; `default` is one of them, and matches where none does.
      temperature: of the softmax over the contenders' confidences that becomes the winner's; None
        leaves its own.
    """

    name: str
    members: tuple[SignalKey, ...]
    default: SignalKey
    temperature: float | None = None


@dataclass(frozen=True, kw_only=True)
class ScoreInput:
    """One term of a score.

    Attributes:
      key: a signal; with the kind `projection` a score, or an output if `source` is confidence.
      source: `binary` takes `match` or `miss`, `confidence` what a match has, `raw` the number.
    """

    key: SignalKey
    weight: float
    source: str = "binary"
    match: float = 1.0
    miss: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Score:
    """A weighted sum of what signals found."""

    name: str
    inputs: tuple[ScoreInput, ...]


@dataclass(frozen=True, kw_only=True)
class Output:
    """A name for a range of a score; None is the whole of it."""

    name: str
    within: Predicate | None = None


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """The outputs of a score: the first whose range it is in, or with `emits_all` each."""

    name: str
    source: str
    outputs: tuple[Output, ...]
    emits_all: bool = False
    slope: float = DEFAULT_SLOPE


@dataclass(frozen=True, kw_only=True)
class Projections:
    """All projections of a recipe; names are unique among scores, and among outputs."""

    partitions: tuple[Partition, ...] = ()
    scores: tuple[Score, ...] = ()
    mappings: tuple[Mapping, ...] = ()

    @cached_property
    def partition_of(self) -> dict[SignalKey, Partition]:
        """The partition of each member."""
        return {member: part for part in self.partitions for member in part.members}

    @cached_property
    def score_of(self) -> dict[str, Score]:
        """The scores by name."""
        return {score.name: score for score in self.scores}

    @cached_property
    def mapping_of(self) -> dict[str, tuple[Mapping, int]]:
        """For each output its mapping, and its place there."""
        return {
            output.name: (mapping, index)
            for mapping in self.mappings
            for index, output in enumerate(mapping.outputs)
        }

    def inputs_of(self, key: SignalKey) -> set[SignalKey]:
        """The signals that a key stands for: itself, the members of its partition, or what the
        score behind a projection's output reads."""
        if key.kind != PROJECTION:
            partition = self.partition_of.get(key)
            return {key} if partition is None else set(partition.members)
        mapping, _ = self.mapping_of[key.name]
        return self._inputs_of_score(mapping.source)

    def _inputs_of_score(self, name: str) -> set[SignalKey]:
        found: set[SignalKey] = set()
        for term in self.score_of[name].inputs:
            if term.key.kind != PROJECTION or term.source == "confidence":
                found |= self.inputs_of(term.key)
            else:
                found |= self._inputs_of_score(term.key.name)
        return found
