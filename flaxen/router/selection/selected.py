"""Selected: the model that was chosen, and why; NoModel: why none was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from flaxen.router.selection.candidate import Candidate

# Why a candidate is out.
_OfRequest = Literal["api", "modality", "tools", "structured_output", "output", "context"]
_OfModel = Literal["authorization", "failed", "circuit"]
_OfAlgorithm = Literal["limit", "quality", "weight"]
Cause = _OfRequest | _OfModel | _OfAlgorithm


@dataclass(frozen=True)
class Excluded:
    """A candidate that could not be chosen: its name, the kind of reason, and the reason."""

    name: str
    cause: Cause
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Selected:
    """The choice of a model for a request.

    Attributes:
      candidate: what was chosen.
      method: the algorithm; `single` where a decision has one candidate, `session` where a session
        keeps its model whatever an algorithm would say.
      reason: why this one, as a text.
      scores: of candidates, the greater the better, by name; what they mean depends on the method.
      order: all that could have been chosen, the best first; those that only a session holds back
        from being chosen stand behind its model as they are declared.
      excluded: what could not.
      fallback: why the algorithm could not choose, so that the configuration's fallback did; "" if
        it chose.
      kept: why the session's model was kept instead of a better one; "" if it was not.
    """

    candidate: Candidate
    method: str
    reason: str
    scores: Mapping[str, float] = field(default_factory=dict)
    order: tuple[Candidate, ...] = ()
    excluded: tuple[Excluded, ...] = ()
    fallback: str = ""
    kept: str = ""

    @property
    def model(self) -> str:
        """What answers."""
        return self.candidate.model


class NoModelError(Exception):
    """No candidate may answer a request, or the configuration says to fail.

    Attributes:
      reason: without the candidates.
      excluded: the candidates that were out. Where some are out for a circuit, a failure or a
        limit, the same request may succeed later.
    """

    def __init__(self, reason: str, excluded: Sequence[Excluded] = ()) -> None:
        told = f": {'; '.join(map(str, excluded))}" if excluded else ""
        Exception.__init__(self, f"{reason}{told}")
        self.reason = reason
        self.excluded = tuple(excluded)

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed later."""
        return any(each.cause in ("failed", "circuit", "limit") for each in self.excluded)


class UnrankedError(ValueError):
    """An algorithm can't compare the candidates of this request; the text says why."""
