"""Selecting: from a decision's candidates to the model that answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from flaxen.router.request import RoutedRequest
from flaxen.router.selection.algorithms import SEVERAL_MODELS, Algorithm, MultiFactor
from flaxen.router.selection.candidate import Candidate, Facts
from flaxen.router.selection.cascade import by_escalation
from flaxen.router.selection.factors import by_factors
from flaxen.router.selection.logprobs import APIS as LOGPROBS_APIS
from flaxen.router.selection.ranking import Ranking, by_latency, by_neighbours, by_score, by_weight
from flaxen.router.selection.requirements import CandidateRequirements, Split, split
from flaxen.router.selection.selected import Excluded, NoModelError, Selected, UnrankedError
from flaxen.router.selection.sticking import Hold, Session, Stickiness, hold, price

SINGLE, SESSION = "single", "session"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How a decision chooses: its algorithm, what it requires, and how sessions stick."""

    algorithm: Algorithm = field(default_factory=Algorithm)
    requirements: CandidateRequirements = field(default_factory=CandidateRequirements)
    stickiness: Stickiness = field(default_factory=Stickiness)


def select(
    request: RoutedRequest,
    candidates: Sequence[Candidate],
    policy: Policy,
    facts: Facts,
    *,
    session: Session | None = None,
    failed: Mapping[str, str] | None = None,
) -> Selected:
    """Selects the model that answers a request.

    Args:
      candidates: the decision's, as they stand in the configuration; their names are different.
      session: what the request continues, if that is known.
      failed: why models failed this request before, by `model`. After a failure, select again with
        it: the next best that is left answers.

    Raises:
      NoModelError: no candidate can answer; too few can; what is continued is at a model that can't
        answer; or the configuration says to fail.
    """
    kind = policy.algorithm.type
    if kind in SEVERAL_MODELS:
        raise NoModelError(f"{kind} asks several models, and one request goes to one")
    if not candidates:
        raise NoModelError("the decision names no models")

    def sort_out(some: Sequence[Candidate]) -> Split:
        return split(request, some, policy.requirements, facts, failed or {})

    able = sort_out(candidates)
    held = session and hold(request, session, policy.stickiness)
    released = ""
    if session is not None and held:
        kept, released = _held(session, held, candidates, able, sort_out)
        if kept is not None and (held.must or policy.stickiness.mode != "observe"):
            return kept
        if kept is not None:
            released = f"if it applied, {kept.model} would be kept: {held.reason}"
    selected, compares = _choose(request, candidates, able, policy.algorithm, facts)
    if released:
        return replace(selected, reason=f"{selected.reason}; {released}")
    if session is None:
        continued = request.previous_response_id or request.conversation_id
        told = f"; nobody knows which model has {continued}" if continued else ""
        return replace(selected, reason=selected.reason + told)
    return _priced(request, selected, compares, session, policy.stickiness, facts)


def _held(
    session: Session,
    held: Hold,
    candidates: Sequence[Candidate],
    able: Split,
    sort_out: Callable[[Sequence[Candidate]], Split],
) -> tuple[Selected | None, str]:
    """The session's model; or None, and why it was not kept."""
    model = session.candidate.model
    named = [each for each in candidates if each.model == model]
    if not named and not held.anywhere:
        return None, f"{model} is not kept, as the decision does not name it"
    own, out = sort_out(named or [session.candidate])
    if not own and held.must:
        raise NoModelError(f"no other model can answer: {held.reason}", out)
    if not own:
        return None, f"{model} is not kept: {out[0].reason}"
    candidate = next((each for each in own if each.name == session.candidate.name), own[0])
    pool, excluded = able
    rest = () if held.must else (each for each in pool if each != candidate)
    return Selected(
        candidate=candidate,
        method=SESSION,
        reason=held.reason,
        order=(candidate, *rest),
        excluded=tuple(excluded),
        kept=held.reason,
    ), ""


def _choose(
    request: RoutedRequest,
    candidates: Sequence[Candidate],
    able: Split,
    algorithm: Algorithm,
    facts: Facts,
) -> tuple[Selected, bool]:
    """The algorithm's choice, whatever the session; and whether its scores say how much better one
    candidate is than another."""
    pool, excluded = able
    # A model that failed this request counted before it did.
    num_able = len(pool) + sum(each.cause == "failed" for each in excluded)
    if not pool or num_able < algorithm.minimum_candidates:
        least = algorithm.minimum_candidates
        raise NoModelError(f"{len(pool)} candidates can answer, of at least {least}", excluded)
    if len(candidates) == 1 and algorithm.type != "multi_factor":
        method, ranking = SINGLE, _as_declared(pool, "the only candidate")
    else:
        method = algorithm.type
        ranking = _ranked(request, pool, algorithm, facts, excluded)
    return Selected(
        candidate=ranking.order[0],
        method=method,
        reason=ranking.reason,
        scores=ranking.scores,
        order=ranking.order,
        excluded=(*excluded, *ranking.excluded),
        fallback=ranking.fallback,
    ), ranking.compares


def _as_declared(pool: Sequence[Candidate], reason: str, fallback: str = "") -> Ranking:
    return Ranking(order=tuple(pool), scores={}, reason=reason, compares=False, fallback=fallback)


def _ranked(
    request: RoutedRequest,
    pool: Sequence[Candidate],
    algorithm: Algorithm,
    facts: Facts,
    excluded: Sequence[Excluded],
) -> Ranking:
    """The algorithm's ranking; the pool as declared, which is said, where it has none and the
    configuration does not say to fail."""
    try:
        if algorithm.type == "weighted":
            return by_weight(pool, facts.seed)
        if algorithm.type == "latency_aware":
            assert algorithm.latency_aware is not None
            return by_latency(pool, algorithm.latency_aware, facts)
        if algorithm.type == "multi_factor":
            return by_factors(request, pool, algorithm.multi_factor or MultiFactor(), facts)
        if algorithm.type == "knn":
            return by_neighbours(pool, facts)
        if algorithm.type == "confidence":
            assert algorithm.confidence is not None
            if request.api not in LOGPROBS_APIS:
                raise UnrankedError(f"{request.api} have no log-probabilities that a router reads")
            return by_escalation(pool, algorithm.confidence)
        assert algorithm.type == "static", algorithm.type
        return by_score(pool)
    except NoModelError as error:
        raise NoModelError(error.reason, (*excluded, *error.excluded)) from None
    except UnrankedError as error:
        told = f"{algorithm.type} could not choose: {error}"
        if algorithm.on_error == "fail":
            raise NoModelError(f"{told}, and on_error is fail", excluded) from error
        return _as_declared(pool, "the first candidate", told)


def _priced(
    request: RoutedRequest,
    selected: Selected,
    compares: bool,
    session: Session,
    stickiness: Stickiness,
    facts: Facts,
) -> Selected:
    """The choice, or the session's model where the choice is not better by what a switch costs.

    A cascade is not priced: it begins anew with each request.
    """
    own = [each for each in selected.order if each.model == session.candidate.model]
    if (
        not own
        or not stickiness.is_priced
        or stickiness.mode == "bypass"
        or selected.method == "confidence"
        or selected.fallback
    ):
        return selected
    current = next((each for each in own if each.name == session.candidate.name), own[0])
    best = selected.candidate
    if current == best:
        return selected
    gain = selected.scores[best.name] - selected.scores[current.name] if compares else 0.0
    least = price(
        request, replace(session, candidate=current), best, selected.order, facts, stickiness
    )
    told = f"{best.name} is better than the session's {current.name} by {gain:.4f}"
    if gain > least or least == 0:
        return replace(
            selected, reason=f"{selected.reason}; {told}, and a switch costs {least:.4f}"
        )
    kept = f"{told}, and a switch needs {least:.4f}"
    if stickiness.mode == "observe":
        return replace(selected, reason=f"{selected.reason}; if it applied, no switch: {kept}")
    order = (current, *(each for each in selected.order if each != current))
    return replace(selected, candidate=current, order=order, kept=kept)
