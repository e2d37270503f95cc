"""Partitions, scores and mappings, by hand."""

from __future__ import annotations

import math

import pytest

from flaxen.router.decisions.bounds import FALSE, TRUE, UNKNOWN, Bounds
from flaxen.router.decisions.known import Known
from flaxen.router.decisions.projections import (
    Mapping,
    Output,
    Partition,
    Projections,
    Score,
    ScoreInput,
)
from flaxen.router.decisions.tree import Leaf, SignalKey
from flaxen.router.signals.found import Found, unknown
from flaxen.router.signals.predicate import Predicate

A, B, C = (SignalKey("domain", name) for name in "abc")
NO = Found(matched=False)


def sure(confidence: float) -> Found:
    return Found(matched=True, confidence=confidence)


def partitioned(found: dict[SignalKey, Found], temperature: float | None = None) -> list[Bounds]:
    partition = Partition(name="p", members=(A, B, C), default=C, temperature=temperature)
    known = Known(Projections(partitions=(partition,)), found.get)
    return [known.leaf(Leaf(key=key), exact=True) for key in (A, B, C)]


def test_of_a_partition_the_most_confident_stays() -> None:
    no = Bounds(FALSE)
    assert partitioned({A: sure(0.6), B: sure(0.7), C: NO}) == [no, Bounds(TRUE, 0.7, 0.7), no]
    assert partitioned({A: sure(0.7), B: sure(0.7), C: NO}) == [Bounds(TRUE, 0.7, 0.7), no, no]
    assert partitioned({A: NO, B: NO, C: NO}) == [no, no, Bounds(TRUE, 1.0, 1.0)]  # the default
    _, (*_, share, _), _ = partitioned({A: sure(0.5), B: sure(0.7), C: NO}, temperature=0.1)
    assert share == pytest.approx(math.exp(7) / (math.exp(7) + math.exp(5)))
    assert partitioned({A: sure(0.5), B: NO, C: NO}, temperature=0.1)[0].low == 0.5


def test_a_partition_with_an_unknown_member_is_unknown_where_it_could_be_otherwise() -> None:
    unsure = Bounds(UNKNOWN)
    found = {A: unknown("timed out"), B: sure(0.7), C: NO}
    assert partitioned(found) == [unsure, unsure, unsure]
    assert partitioned({**found, B: NO}) == [unsure, Bounds(FALSE), unsure]


def outputs(mapping: Mapping, score: Score, found: dict[SignalKey, Found]) -> dict[str, Bounds]:
    known = Known(Projections(scores=(score,), mappings=(mapping,)), found.get)
    return {
        output.name: known.leaf(Leaf(key=SignalKey("projection", output.name)), exact=True)
        for output in mapping.outputs
    }


def test_a_score_is_a_weighted_sum_and_its_outputs_are_ranges() -> None:
    score = Score(
        name="s",
        inputs=(
            ScoreInput(key=A, weight=2, match=3, miss=-1),
            ScoreInput(key=B, weight=0.5, source="confidence"),
            ScoreInput(key=C, weight=-1, source="raw"),
        ),
    )
    bands = (
        Output(name="low", within=Predicate(lt=0)),
        Output(name="middle", within=Predicate(gte=0, lt=6)),
        Output(name="high", within=Predicate(gte=6)),
    )
    mapping = Mapping(name="m", source="s", outputs=bands)
    number = Found(matched=False, value=0.25)
    for found, name, distance in (
        ({A: sure(1), B: sure(0.5), C: number}, "high", 0.0),  # on a bound: the higher has it
        ({A: sure(1), B: sure(0.5), C: NO}, "high", 0.25),
        ({A: sure(1), B: NO, C: number}, "middle", 0.25),
        ({A: NO, B: sure(0.5), C: number}, "low", 2.0),
    ):
        values = outputs(mapping, score, found)
        assert {n for n, b in values.items() if b.may_be == TRUE} == {name}
        confidence = 1 / (1 + math.exp(-12 * distance))
        assert (values[name].low, values[name].high) == (confidence, confidence)


def test_a_mapping_emits_the_first_range_or_all() -> None:
    score = Score(name="s", inputs=(ScoreInput(key=A, weight=1, source="raw"),))
    ranges = (Output(name="some", within=Predicate(gt=0.1)), Output(name="any"))
    found = {A: Found(matched=False, value=0.5)}
    for emits_all, matched in ((False, {"some"}), (True, {"some", "any"})):
        mapping = Mapping(name="m", source="s", outputs=ranges, emits_all=emits_all, slope=2)
        values = outputs(mapping, score, found)
        assert {name for name, b in values.items() if b.may_be == TRUE} == matched
        assert values["some"].low == 1 / (1 + math.exp(-2 * 0.4))


def test_an_unknown_input_makes_unknown_what_it_could_change() -> None:
    score = Score(name="s", inputs=(ScoreInput(key=A, weight=1), ScoreInput(key=B, weight=0.5)))
    bands = (Output(name="one", within=Predicate(gte=1)), Output(name="less"))
    mapping = Mapping(name="m", source="s", outputs=bands)
    values = outputs(mapping, score, {A: sure(1), B: unknown("failed")})
    assert (values["one"].may_be, values["less"].may_be) == (TRUE, FALSE)
    assert values["one"].low == values["one"].high == 0.5  # it is at least on the bound
    values = outputs(mapping, score, {A: unknown("failed"), B: sure(1)})
    assert (values["one"].may_be, values["less"].may_be) == (UNKNOWN, UNKNOWN)
    raw = Score(name="s", inputs=(ScoreInput(key=A, weight=1, source="raw"),))
    for found in (unknown("failed"), Found(matched=True, value=math.nan)):
        assert outputs(mapping, raw, {A: found})["one"].may_be == UNKNOWN


def test_the_signals_behind_a_key() -> None:
    inner = Score(name="inner", inputs=(ScoreInput(key=A, weight=1),))
    outer = Score(
        name="outer",
        inputs=(
            ScoreInput(key=SignalKey("projection", "inner"), weight=1),
            ScoreInput(key=SignalKey("keyword", "k"), weight=1),
        ),
    )
    projections = Projections(
        partitions=(Partition(name="p", members=(A, B), default=B),),
        scores=(inner, outer),
        mappings=(Mapping(name="m", source="outer", outputs=(Output(name="o"),)),),
    )
    assert projections.inputs_of(SignalKey("projection", "o")) == {
        A,
        B,
        SignalKey("keyword", "k"),
    }
    assert projections.inputs_of(C) == {C}
