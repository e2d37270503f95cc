"""Sticking: when a session keeps its model, and what a switch costs.

Some states live at the model that has them, and hold it. Else a better model must be better by more
than the switch costs, which is mostly the cached prefix that it loses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from flaxen.router.request import RoutedRequest
from flaxen.router.selection.candidate import Candidate, Facts
from flaxen.router.selection.requirements import num_prompt_tokens
from flaxen.router.signals.conversation import COUNTS

# The public reference's constants (session_aware), in the scale of scores from 0 to 1.
_STAY = 0.10
_HANDOFF = 0.05
_PREFIX = 0.20
_MOST_PRESSURE = 1.5
_HISTORY = 0.04
_MANY_SWITCHES = 8
_MANY_TURNS = 8
_LONG_HISTORY = 8_192  # tokens
_UNKNOWN_WARMTH = 0.5
_UNKNOWN_PRESSURE = 0.5


@dataclass(frozen=True, kw_only=True)
class Session:
    """The facts of the session that a request continues.

    Attributes:
      candidate: the model of its last answer, or of the response that the request continues.
      num_turns, num_switches: its answers so far, and how often their model changed.
      idle_s: the seconds since the last answer.
      history_tokens: the tokens of the last prompt and its answer.
      has_drifted: whether another decision won this time.
    """

    candidate: Candidate
    num_turns: int = 1
    num_switches: int = 0
    idle_s: float = 0.0
    history_tokens: int = 0
    has_drifted: bool = False


@dataclass(frozen=True, kw_only=True)
class Stickiness:
    """When sessions keep their models (`global.router.learning.protection`, and a decision's own).

    Attributes:
      mode: bypass keeps a model only where its server holds the response that is continued; observe
        says what apply would do.
      is_priced: whether a switch is priced, and `scope` and `min_turns` count.
      scope: session keeps the model as long as the session is not idle.
      keeps_current: the decision keeps whatever model the session has (retention).
    """

    mode: Literal["apply", "observe", "bypass"] = "apply"
    is_priced: bool = False
    scope: Literal["conversation", "session"] = "conversation"
    keeps_current: bool = False
    idle_timeout_s: float = 300.0
    min_turns: int = 1
    switch_margin: float = 0.05
    stability_weight: float = 1.0


@dataclass(frozen=True)
class Hold:
    """Why a session can't change its model.

    Attributes:
      must: whether nothing else can answer, so that the request fails without it.
      anywhere: whether it holds where the decision does not name the model, too.
    """

    reason: str
    must: bool = False
    anywhere: bool = False


def hold(request: RoutedRequest, session: Session, stickiness: Stickiness) -> Hold | None:
    """Why the session's model answers whatever is better; None if it may change."""
    for what, name in (
        ("response", request.previous_response_id),
        ("conversation", request.conversation_id),
    ):
        if name:
            reason = f"it has the {what} {name} that the request continues"
            return Hold(reason, must=True, anywhere=True)
    if stickiness.mode == "bypass":
        return None
    if COUNTS["active_tool_loop"](request, ""):
        return Hold("it is in a loop of tools", anywhere=True)
    if stickiness.keeps_current:
        return Hold("the decision keeps the current model")
    if not stickiness.is_priced or session.idle_s > stickiness.idle_timeout_s:
        return None
    if stickiness.scope == "session":
        return Hold("sessions keep their model")
    if session.num_turns < stickiness.min_turns and not session.has_drifted:
        return Hold(f"the session has {session.num_turns} turns of {stickiness.min_turns}")
    return None


def price(
    request: RoutedRequest,
    session: Session,
    other: Candidate,
    pool: Sequence[Candidate],
    facts: Facts,
    stickiness: Stickiness,
) -> float:
    """How much better another candidate's score must be for a switch to it: the margin, and the
    switch's cost. After the idle timeout a switch is free, because caches are cold."""
    if session.idle_s > stickiness.idle_timeout_s:
        return 0.0
    current = session.candidate
    switches = _HISTORY * min(session.num_switches / _MANY_SWITCHES, 1.0)
    num_prompt = max(num_prompt_tokens(request, current), 1)
    history = session.history_tokens
    mass = 0.45 * min(history / num_prompt, 1.0) + 0.35 * min(history / _LONG_HISTORY, 1.0)
    mass += 0.20 * min(session.num_turns / _MANY_TURNS, 1.0)
    lost = _PREFIX * mass * _lost_share(current, other, num_prompt, facts)
    stay = lost * (1 + _MOST_PRESSURE * _pressure(current, pool))
    leave = lost * (1 + _MOST_PRESSURE * max(_pressure(current, pool), _pressure(other, pool)))
    return stickiness.switch_margin + stickiness.stability_weight * (
        _STAY + _HANDOFF + switches + stay + leave
    )


def _lost_share(current: Candidate, other: Candidate, num_prompt: int, facts: Facts) -> float:
    """The share of the prompt that the current model's cache has, and the other's has not."""
    has = facts.of(current).cached_tokens
    if has is None:
        return _UNKNOWN_WARMTH
    return min(max(has - (facts.of(other).cached_tokens or 0), 0) / num_prompt, 1.0)


def _pressure(candidate: Candidate, pool: Sequence[Candidate]) -> float:
    """What a cached token saves with a candidate, as a share of the most in the pool."""
    most = max((_saved(each) for each in pool), default=0.0)
    if most <= 0 or candidate.prices is None:
        return _UNKNOWN_PRESSURE
    return min(_saved(candidate) / most, 1.0)


def _saved(candidate: Candidate) -> float:
    prices = candidate.prices
    if prices is None:
        return 0.0
    fresh = prices.prompt if prices.written is None else prices.written
    return max(fresh - prices.of_cached, 0.0)
