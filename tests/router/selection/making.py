"""Candidates, requests and facts that the tests of selection draw."""

from __future__ import annotations

from hypothesis import strategies as st

from flaxen.router.request import Message, RoutedRequest, ToolCall
from flaxen.router.selection.algorithms import (
    Algorithm,
    Confidence,
    LatencyAware,
    Limits,
    MultiFactor,
    Objective,
    Priority,
    Quality,
    Weights,
)
from flaxen.router.selection.candidate import Candidate, Facts, Live, Prices

INDEX = "skill"
PERCENTILE = 95
ASKED = RoutedRequest(api="chat", model="auto", messages=(Message(role="user", text="Hello"),))
IN_LOOP = RoutedRequest(
    api="chat",
    model="auto",
    messages=(
        Message(role="user", text="Which files are there?"),
        Message(role="assistant", tool_calls=(ToolCall(id="1", name="ls"),)),
        Message(role="tool", tool_call_id="1", text="a b"),
    ),
)
WEIGHTED = MultiFactor(
    weights=Weights(quality=0.4, latency=0.3, cost=0.2, load=0.1, cached_prefix=0.2),
    quality=Quality(index=INDEX, on_missing="disable_quality"),
)


def ordered(*factors: str, tolerance: float = 0.0) -> MultiFactor:
    """A lexicographic objective of these factors."""
    priorities = [{"factor": factor, "tolerance": tolerance} for factor in factors]
    return MultiFactor(
        objective=Objective(
            strategy="lexicographic",
            priorities=tuple(Priority(**each) for each in priorities),  # type: ignore[arg-type]
        ),
        quality=Quality(index=INDEX, on_missing="disable_quality"),
    )


ALGORITHMS = (
    Algorithm(),
    Algorithm(type="weighted"),
    Algorithm(type="knn"),
    Algorithm(type="latency_aware", latency_aware=LatencyAware(ttft_percentile=PERCENTILE)),
    Algorithm(type="confidence", confidence=Confidence(threshold=0.5)),
    Algorithm(type="multi_factor", multi_factor=WEIGHTED),
    Algorithm(type="multi_factor", multi_factor=MultiFactor(slo=Limits(max_inflight=2))),
    Algorithm(type="multi_factor", multi_factor=ordered("latency", "cost", tolerance=0.2)),
)


def candidate(name: str, **values: object) -> Candidate:
    """A candidate whose name is its model's."""
    return Candidate(name=name, model=name, **values)  # type: ignore[arg-type]


def live(ttft: float | None = None, tpot: float | None = None, **values: object) -> Live:
    """What is known of a model with these percentiles."""
    return Live(
        ttft_ms={} if ttft is None else {PERCENTILE: ttft},
        tpot_ms={} if tpot is None else {PERCENTILE: tpot},
        **values,  # type: ignore[arg-type]
    )


_NUM_FIELDS = 11


def pools() -> st.SearchStrategy[tuple[list[Candidate], Facts]]:
    """A few candidates, some of which can't answer, and what is known of them.

    One draw of bytes is the fastest that Hypothesis has.
    """
    return st.binary(min_size=1 + _NUM_FIELDS, max_size=1 + 5 * _NUM_FIELDS).map(_pool)


def _pool(data: bytes) -> tuple[list[Candidate], Facts]:
    candidates, lives = [], {}
    start = data[0]
    for number in range((len(data) - 1) // _NUM_FIELDS):
        name = "abcde"[(start + number * 2) % 5]
        at = 1 + number * _NUM_FIELDS
        values = data[at : at + _NUM_FIELDS]
        maybe = [None if value % 7 == 0 else float(value % 7 - 1) for value in values]
        candidates.append(
            candidate(
                name,
                weight=[0.0, 0.5, 1.0, 3.0][values[0] % 4],
                score=[0.5, 1.0][values[1] % 2],
                size=maybe[2],
                prices=None if maybe[3] is None else Prices(prompt=maybe[3]),
                quality={} if maybe[4] is None else {INDEX: maybe[4]},
                context_window=[None, 4, 1_000][values[5] % 3],
            )
        )
        lives[name] = live(
            maybe[6],
            maybe[7],
            in_flight=values[8] % 4,
            cached_tokens=[None, 0, 1, 3][values[9] % 4],
            is_open=values[10] % 4 == 3,
            denied="not yours" if values[10] % 8 == 6 else "",
        )
    return candidates, Facts(live=lives, seed=str(start % 3))
