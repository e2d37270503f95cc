"""Which signals are asked for, and who wins: by hand, as the public reference orders decisions."""

from __future__ import annotations

from flaxen.router.decisions.deciding import Decided, Deciding
from flaxen.router.decisions.explaining import ExplainedNode, explain
from flaxen.router.decisions.projections import Mapping, Output, Projections, Score, ScoreInput
from flaxen.router.decisions.ranking import Rules, Strategy
from flaxen.router.decisions.tree import And, Leaf, Node, Not, Or, SignalKey
from flaxen.router.signals.found import Found, unknown
from flaxen.router.signals.predicate import Predicate
from tests.router.decisions.at_once import decide

YES, NO, FAILED = Found(matched=True), Found(matched=False), unknown("no model")


def key(name: str) -> SignalKey:
    """Names in capitals are learned: a model must run for them."""
    return SignalKey("domain" if name.isupper() else "keyword", name)


def leaf(name: str) -> Leaf:
    return Leaf(key=key(name))


class Signals:
    """What signals find, and which were asked for, in their order."""

    def __init__(self, **found: Found) -> None:
        self.found = found
        self.asked: list[str] = []

    def find(self, asked: SignalKey) -> Found | None:
        if asked.kind == "domain":
            return None
        return self.compute(asked)

    def compute(self, asked: SignalKey) -> Found:
        self.asked.append(asked.name)
        return self.found[asked.name]


def run(
    decisions: list[Rules], signals: Signals, strategy: Strategy = "priority"
) -> tuple[Decided, Deciding]:
    deciding = decide(decisions, signals.find, signals.compute, strategy)
    return deciding.decided(), deciding


def winner(decisions: list[Rules], signals: Signals, strategy: Strategy = "priority") -> str | None:
    decided, _ = run(decisions, signals, strategy)
    return decided.rules.name if decided.rules else None


def test_signals_below_a_winner_are_not_asked_for() -> None:
    decisions = [
        Rules(name="low", priority=1, tree=Or((leaf("c"), leaf("B")))),
        Rules(name="high", priority=2, tree=And((leaf("A"), leaf("a")))),
        Rules(name="top", priority=3, tree=Or((leaf("b"), leaf("C")))),
    ]
    signals = Signals(b=YES)
    assert winner(decisions, signals) == "top"
    assert signals.asked == ["b"]


def test_free_signals_settle_before_learned_ones_are_asked() -> None:
    decisions = [
        Rules(name="high", priority=2, tree=And((leaf("A"), leaf("a")))),
        Rules(name="low", priority=1, tree=leaf("c")),
    ]
    signals = Signals(a=NO, c=YES)
    assert winner(decisions, signals) == "low"
    assert signals.asked == ["a", "c"]
    signals = Signals(a=YES, c=YES, A=NO)
    assert winner(decisions, signals) == "low"
    assert signals.asked == ["a", "c", "A"]
    signals = Signals(a=YES, c=YES, A=YES)
    assert winner(decisions, signals) == "high"


def test_learned_signals_come_in_one_batch_without_those_that_no_longer_matter() -> None:
    decisions = [
        Rules(name="x", priority=3, tree=And((leaf("A"), leaf("a"), leaf("B")))),
        Rules(name="y", priority=2, tree=Or((leaf("C"), And((leaf("D"), leaf("b")))))),
        Rules(name="z", priority=1, tree=None),
        Rules(name="never", priority=0, tree=leaf("E")),
    ]
    signals = Signals(a=YES, b=NO)
    deciding = Deciding(decisions, signals.find)
    assert deciding.advance() == {key("A"), key("B"), key("C")}
    deciding.give({key("A"): NO, key("B"): YES, key("C"): NO})
    assert deciding.advance() == frozenset()
    assert deciding.decided().rules == decisions[2]


def test_a_tie_of_priorities_is_broken_by_confidence_then_by_name() -> None:
    sure, less = Found(matched=True, confidence=0.9), Found(matched=True, confidence=0.6)
    decisions = [
        Rules(name="b", priority=1, tree=leaf("A")),
        Rules(name="a", priority=1, tree=leaf("B")),
    ]
    assert winner(decisions, Signals(A=sure, B=less)) == "b"
    assert winner(decisions, Signals(A=sure, B=sure)) == "a"
    # A NOT has confidence 1, an AND the mean, an OR the greatest, no rules 0.
    negated = Rules(name="n", priority=1, tree=Not(leaf("c")))
    assert winner([*decisions, negated], Signals(A=sure, B=sure, c=NO)) == "n"
    mean = Rules(name="0", priority=1, tree=And((leaf("B"), leaf("c"))))
    assert winner([*decisions, mean], Signals(A=sure, B=less, c=YES)) == "b"  # .9 before .8
    best = Rules(name="0", priority=1, tree=Or((leaf("B"), leaf("A"))))
    assert winner([*decisions, best], Signals(A=sure, B=less)) == "0"
    assert winner([Rules(name="0", priority=1), *decisions], Signals(A=less, B=NO)) == "b"


def test_strategies_order_by_confidence_or_tier() -> None:
    sure, less = Found(matched=True, confidence=0.9), Found(matched=True, confidence=0.6)
    decisions = [
        Rules(name="a", priority=9, tree=leaf("A")),
        Rules(name="b", priority=1, tree=leaf("B")),
    ]
    signals = Signals(A=less, B=sure)
    assert winner(decisions, signals) == "a"
    assert winner(decisions, signals, "confidence") == "b"
    # One decision that matched with a tier orders all of them by tier, then confidence.
    tiered = [*decisions, Rules(name="c", priority=99, tier=1, tree=leaf("c"))]
    assert winner(tiered, Signals(A=less, B=sure, c=YES)) == "b"
    assert winner(tiered, Signals(A=less, B=sure, c=NO)) == "a"


def test_the_three_values_are_those_of_kleene() -> None:
    values = {True: YES, False: NO, None: FAILED}
    for one, first in values.items():
        for two, second in values.items():
            both = False if False in (one, two) else None if None in (one, two) else True
            some = True if True in (one, two) else None if None in (one, two) else False
            for tree, expected in (
                (And((leaf("A"), leaf("B"))), both),
                (Or((leaf("A"), leaf("B"))), some),
                (Not(leaf("A")), None if one is None else not one),
            ):
                # Which value it has shows in what each policy makes of it.
                matched = [
                    run([Rules(name="d", tree=tree, on_unknown=p)], Signals(A=first, B=second))[0]
                    for p in ("no_match", "match", "fail_request")
                ]
                assert [d.rules is not None for d in matched] == [
                    expected is True,
                    expected is not False,
                    expected is not False,
                ]
                assert [d.fails for d in matched] == [False, False, expected is None]


def test_an_unresolved_decision_fails_only_requests_that_it_could_have_won() -> None:
    guard = Rules(name="guard", priority=2, tree=leaf("A"), on_unknown="fail_request")
    rest = Rules(name="rest", priority=1)
    decided, _ = run([guard, rest], Signals(A=FAILED))
    assert decided == Decided(rules=guard, is_unknown=True, fails=True, unknown=(key("A"),))
    above = Rules(name="above", priority=3, tree=leaf("a"))
    decided, _ = run([guard, rest, above], Signals(a=YES, A=FAILED))
    assert (decided.rules, decided.fails) == (above, False)
    # By confidence it counts as fully sure, so it comes before all that are less.
    half = Rules(name="half", priority=9, tree=leaf("B"))
    signals = Signals(A=FAILED, B=Found(matched=True, confidence=0.5))
    assert run([guard, half], signals, "confidence")[0].fails


def test_what_matches_because_it_is_unknown_has_no_confidence() -> None:
    decisions = [
        Rules(name="a", priority=1, tree=leaf("A"), on_unknown="match"),
        Rules(name="b", priority=1, tree=leaf("b")),
    ]
    less = Found(matched=True, confidence=0.1)
    assert winner(decisions, Signals(A=FAILED, b=less)) == "b"
    decided, _ = run(decisions, Signals(A=FAILED, b=NO))
    assert decided == Decided(
        rules=decisions[0], is_unknown=True, confidence=0.0, unknown=(key("A"),)
    )


def test_predicates_read_the_number_and_not_the_match() -> None:
    def matches(found: Found, **bounds: float) -> bool:
        tree = Leaf(key=key("a"), predicate=Predicate(**bounds))
        return winner([Rules(name="d", tree=tree)], Signals(a=found)) == "d"

    not_matched = Found(matched=False, value=0.5)
    assert matches(not_matched, gte=0.5)
    assert not matches(not_matched, gt=0.5)
    assert matches(not_matched, lte=0.5, gt=0)
    assert not matches(not_matched, lt=0.5)
    assert matches(Found(matched=True, confidence=0.7), gte=0.7)  # no number: its confidence
    assert not matches(Found(matched=False), lt=1)  # neither
    tree = Leaf(key=key("a"), predicate=Predicate(gte=0.1))
    decided, _ = run([Rules(name="d", tree=tree)], Signals(a=Found(matched=True, confidence=0.3)))
    assert decided.confidence == 1.0


def test_a_condition_says_what_it_is_where_its_signal_is_unknown() -> None:
    for if_unknown, expected in ((True, "d"), (False, None)):
        tree: Node = Leaf(key=key("A"), if_unknown=if_unknown)
        decided, _ = run([Rules(name="d", tree=tree, on_unknown="no_match")], Signals(A=FAILED))
        assert (decided.rules.name if decided.rules else None) == expected
        assert not decided.is_unknown
        assert decided.unknown == (key("A"),)


def test_a_score_is_settled_before_all_of_its_inputs_are() -> None:
    retry = Projections(
        scores=(
            Score(
                name="s",
                inputs=(
                    ScoreInput(key=key("A"), weight=1),
                    ScoreInput(key=key("B"), weight=0.5),
                    ScoreInput(key=key("c"), weight=0.5),
                ),
            ),
        ),
        mappings=(
            Mapping(name="m", source="s", outputs=(Output(name="r", within=Predicate(gte=1)),)),
        ),
    )
    tree = Leaf(key=SignalKey("projection", "r"))
    for found, missing, won in (
        ({"c": YES, "A": YES}, {"B"}, True),  # at least 1.5; B makes its confidence exact
        ({"c": NO, "A": NO}, set(), False),  # at most 0.5
    ):
        signals = Signals(**found)
        deciding = Deciding([Rules(name="d", tree=tree)], signals.find, projections=retry)
        assert deciding.advance() == {key("A"), key("B")}
        deciding.give({key("A"): signals.found["A"]})
        assert deciding.advance() == {key(name) for name in missing}
        assert (deciding.decided().rules is not None) == won


def test_the_explanation_of_every_node() -> None:
    decisions = [
        Rules(name="x", priority=2, tree=And((leaf("a"), Or((leaf("b"), leaf("A")))))),
        Rules(name="y", priority=1, tree=Not(leaf("b"))),
        Rules(name="z", priority=0, tree=leaf("A")),
        Rules(name="all", priority=-1),
    ]
    signals = Signals(a=Found(matched=False, reason="no word of it"), b=NO)
    _, deciding = run(decisions, signals)
    x, y, z, last = explain(deciding)
    done = "its AND is false already"
    assert x.tree == ExplainedNode(
        name="AND",
        value="false",
        children=(
            ExplainedNode(name="keyword:a", value="false", reason="no word of it"),
            ExplainedNode(
                name="OR",
                value="not computed",
                reason=done,
                children=(
                    ExplainedNode(name="keyword:b", value="false"),
                    ExplainedNode(name="domain:A", value="not computed", reason=done),
                ),
            ),
        ),
    )
    assert y.won
    assert y.tree == ExplainedNode(
        name="NOT",
        value="true",
        confidence=1.0,
        children=(ExplainedNode(name="keyword:b", value="false"),),
    )
    assert z.tree == ExplainedNode(
        name="domain:A", value="not computed", reason="y comes first whatever this is"
    )
    assert (last.tree, last.won) == (None, False)
