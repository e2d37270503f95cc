"""Asking for as few signals as possible decides as asking for all of them does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from flaxen.router.decisions.bounds import FALSE, TRUE
from flaxen.router.decisions.deciding import Deciding
from flaxen.router.decisions.explaining import NOT_COMPUTED, ExplainedNode, explain
from flaxen.router.decisions.known import Known
from flaxen.router.decisions.projections import Mapping as ScoreMapping
from flaxen.router.decisions.projections import (
    Output,
    Partition,
    Projections,
    Score,
    ScoreInput,
)
from flaxen.router.decisions.ranking import Rules, Strategy
from flaxen.router.decisions.tree import And, Leaf, Node, Not, Or, SignalKey
from flaxen.router.signals.found import Found
from flaxen.router.signals.predicate import Predicate
from tests.router.decisions.at_once import decide

KEYS = [SignalKey("keyword", name) for name in "abc"] + [
    SignalKey("domain", name) for name in "defg"
]
PARTITION = Partition(name="p", members=tuple(KEYS[4:]), default=KEYS[5])
BANDS = (
    Output(name="low", within=Predicate(lt=0.4)),
    Output(name="middle", within=Predicate(gte=0.4, lte=1)),
    Output(name="rest"),
)
INNER = Score(
    name="inner",
    inputs=(
        ScoreInput(key=KEYS[0], weight=0.5),
        ScoreInput(key=KEYS[3], weight=-1, source="raw"),
        ScoreInput(key=KEYS[4], weight=1, source="confidence"),
    ),
)
OUTER = Score(
    name="outer",
    inputs=(
        ScoreInput(key=SignalKey("projection", "inner"), weight=0.5),
        ScoreInput(key=SignalKey("projection", "middle"), weight=1, source="confidence"),
        ScoreInput(key=KEYS[1], weight=0.25, match=2, miss=-1),
    ),
)
PROJECTIONS = Projections(
    partitions=(PARTITION,),
    scores=(INNER, OUTER),
    mappings=(
        ScoreMapping(name="m", source="inner", outputs=BANDS),
        ScoreMapping(
            name="n",
            source="outer",
            outputs=(Output(name="some", within=Predicate(gt=0)), Output(name="always")),
            emits_all=True,
        ),
    ),
)
OUTPUTS = [SignalKey("projection", name) for name in ("low", "middle", "rest", "some", "always")]

tenths = st.integers(0, 10).map(lambda tenth: tenth / 10)
certain_results = st.builds(
    Found, matched=st.booleans(), confidence=tenths, value=st.one_of(st.none(), tenths)
)
results = st.one_of(st.just(Found(matched=None)), certain_results, certain_results)
conditions = st.one_of(
    st.builds(
        Leaf,
        key=st.sampled_from(KEYS),
        predicate=st.sampled_from([None, None, Predicate(gte=0.5), Predicate(gt=0.2, lt=0.7)]),
        if_unknown=st.sampled_from([None, None, None, True, False]),
    ),
    st.builds(Leaf, key=st.sampled_from(OUTPUTS)),
)
trees: st.SearchStrategy[Node] = st.recursive(
    conditions,
    lambda inner: st.one_of(
        st.builds(And, st.lists(inner, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, max_size=3).map(tuple)),
        st.builds(Not, inner),
    ),
    max_leaves=6,
)
decision_lists = st.lists(
    st.builds(
        Rules,
        name=st.just(""),
        priority=st.integers(0, 2),
        tier=st.sampled_from([0, 0, 0, 1, 2]),
        tree=st.one_of(trees, trees, trees, st.none()),
        on_unknown=st.sampled_from(["no_match", "match", "fail_request"]),
    ),
    max_size=5,
).map(
    lambda found: [
        Rules(name=name, priority=r.priority, tier=r.tier, tree=r.tree, on_unknown=r.on_unknown)
        for name, r in zip("vwxyz", found, strict=False)
    ]
)

Value = tuple[bool | None, float]


def full_value(node: Node | None, known: Known) -> Value:
    """The value and the confidence of a tree whose signals are all known, by the plain rules."""
    if node is None:
        return True, 0.0
    if isinstance(node, Leaf):
        bounds = known.leaf(node, exact=True)
        assert bounds.is_certain
        assert not bounds.missing
        assert bounds.low == bounds.high or bounds.may_be != TRUE
        return {TRUE: True, FALSE: False}.get(bounds.may_be), bounds.low
    if isinstance(node, Not):
        value, _ = full_value(node.child, known)
        return (None if value is None else not value), 1.0
    parts = [full_value(child, known) for child in node.children]
    values = [value for value, _ in parts]
    if isinstance(node, And):
        value = False if False in values else None if None in values else True
        return value, sum(c for _, c in parts) / len(parts) if parts else 0.0
    value = True if True in values else None if None in values else False
    return value, max((c for v, c in parts if v is True), default=0.0)


def full_decision(
    decisions: Sequence[Rules], strategy: Strategy, known: Known
) -> tuple[str | None, float, bool]:
    """Who wins, how sure, and whether it is unknown, with everything computed and then sorted."""
    there = []
    for rules in decisions:
        value, confidence = full_value(rules.tree, known)
        if value is None and rules.on_unknown != "no_match":
            rank = 1.0 if rules.on_unknown == "fail_request" else 0.0
            there.append((rules, rank, 0.0, True))
        elif value is True:
            there.append((rules, confidence, confidence, False))
    if not there:
        return None, 0.0, False
    if any(rules.tier > 0 for rules, *_ in there):
        there.sort(key=lambda t: (t[0].tier, -t[1], -t[0].priority, t[0].name))
    elif strategy == "confidence":
        there.sort(key=lambda t: (-t[1], -t[0].priority, t[0].name))
    else:
        there.sort(key=lambda t: (-t[0].priority, -t[1], t[0].name))
    rules, _, confidence, is_unknown = there[0]
    return rules.name, confidence, is_unknown


@settings(max_examples=150, deadline=None)
@given(
    decision_lists,
    st.fixed_dictionaries(dict.fromkeys(KEYS, results)),
    st.sets(st.sampled_from(KEYS)),
    st.sampled_from(["priority", "confidence"]),
)
def test_lazy_decides_as_full(
    decisions: list[Rules],
    found: Mapping[SignalKey, Found],
    free: set[SignalKey],
    strategy: Strategy,
) -> None:
    asked: list[SignalKey] = []

    def find(key: SignalKey) -> Found | None:
        asked.append(key)
        return found[key] if key in free else None

    deciding = decide(decisions, find, found.get, strategy, PROJECTIONS)
    decided = deciding.decided()
    expected = full_decision(decisions, strategy, Known(PROJECTIONS, found.get))
    name = decided.rules.name if decided.rules else None
    assert (name, decided.confidence, decided.is_unknown) == expected
    assert len(asked) == len(set(asked))
    # The explanation says nothing that full evaluation does not.
    for rules, explained in zip(decisions, explain(deciding), strict=True):
        assert explained.won == (rules.name == name)
        if rules.tree is not None and explained.tree is not None:
            _check(rules.tree, explained.tree, Known(PROJECTIONS, found.get))


def _check(node: Node, explained: ExplainedNode, known: Known) -> None:
    value, confidence = full_value(node, known)
    if explained.value == NOT_COMPUTED:
        assert explained.reason
    else:
        assert explained.value == {True: "true", False: "false", None: "unknown"}[value]
    if explained.confidence is not None:
        assert explained.confidence == confidence
    inner = (
        () if isinstance(node, Leaf) else [node.child] if isinstance(node, Not) else node.children
    )
    for child, child_explained in zip(inner, explained.children, strict=True):
        _check(child, child_explained, known)


@settings(max_examples=100, deadline=None)
@given(decision_lists, st.fixed_dictionaries(dict.fromkeys(KEYS, results)))
def test_models_run_at_most_twice(decisions: list[Rules], found: Mapping[SignalKey, Found]) -> None:
    deciding = Deciding(decisions, lambda key: None, projections=PROJECTIONS)
    rounds: list[frozenset[SignalKey]] = []
    while missing := deciding.advance():
        assert not missing & set().union(*rounds)
        rounds.append(missing)
        deciding.give({key: found[key] for key in missing})
    assert len(rounds) <= 2  # values first, then what only confidences need


@settings(max_examples=150, deadline=None)
@given(
    st.fixed_dictionaries(dict.fromkeys(KEYS, results)),
    st.fixed_dictionaries(dict.fromkeys(KEYS, certain_results)),
)
def test_an_output_that_is_certain_stays_whatever_the_unknown_inputs_are(
    found: dict[SignalKey, Found], instead: dict[SignalKey, Found]
) -> None:
    known = Known(PROJECTIONS, found.get)
    full = Known(
        PROJECTIONS,
        lambda key: instead[key] if found[key].matched is None else found[key],
    )
    for key in (*OUTPUTS, *KEYS):
        before, after = known.leaf(Leaf(key=key), True), full.leaf(Leaf(key=key), True)
        assert after.may_be in (TRUE, FALSE)
        if before.may_be in (TRUE, FALSE):
            assert after.may_be == before.may_be
