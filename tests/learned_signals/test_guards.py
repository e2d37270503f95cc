"""Signals of harm: the worst piece of all texts counts, and personal data is found by its form."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from flaxen.learned_signals.guarding import ClassifierFinder, JailbreakFinder, SafetyFinder
from flaxen.learned_signals.head import HeadStack
from flaxen.learned_signals.personal_data import personal_data
from flaxen.learned_signals.pii import PiiFinder
from flaxen.learned_signals.reading import Reading
from flaxen.learned_signals.windows import Windows
from flaxen.router.signals.found import Found
from flaxen.router.signals.guards import JailbreakRule, PiiRule, SafetyRule
from flaxen.router.signals.heads import ClassifierRule
from tests.learned_signals.made import asked, find, head, vector

ATTACKS = head("jailbreak", ("benign", "jailbreak"))
GOOD, BAD = vector(1, 0), vector(0, 1)
VECTORS = {"good": GOOD, "bad": BAD, "long": np.stack([GOOD, GOOD, BAD, GOOD])}


def jailbreak(rule: JailbreakRule, *turns: str) -> Found:
    patterns = {"bad": BAD, "good": GOOD}
    finder = JailbreakFinder([rule], ATTACKS, ("jailbreak",), patterns)
    return find(finder, asked(*turns), VECTORS, {"jailbreak": ATTACKS})["r"]


def test_an_attack_in_one_piece_of_a_long_text_is_found() -> None:
    rule = JailbreakRule(name="r", threshold=0.5)
    assert jailbreak(rule, "long").matched is True
    assert jailbreak(rule, "good").matched is False


def test_only_suspect_pieces_are_read_alone() -> None:
    """A piece that looks harmless where it stands is not asked again."""
    read: list[tuple[int, ...]] = []

    async def alone(pieces: Sequence[tuple[int, ...]]) -> np.ndarray:
        read.extend(pieces)
        return np.stack([BAD] * len(pieces))

    wary = replace(ATTACKS, suspicions={"jailbreak": 0.5})
    stack = HeadStack({"jailbreak": wary})
    for rows, suspects in (([GOOD, BAD], [(1,)]), ([GOOD, GOOD], [])):
        windows = Windows(np.stack([GOOD]), ((0,), (1,)), np.stack(rows))
        shares = asyncio.run(Reading(windows, stack, alone).of_pieces("jailbreak"))
        assert read == suspects
        assert shares.shape == (len(suspects), 2)
        read.clear()


def test_an_attack_before_is_found_with_the_history_alone() -> None:
    turns = ("bad", "good", "good")
    assert jailbreak(JailbreakRule(name="r", threshold=0.5), *turns).matched is False
    rule = JailbreakRule(name="r", threshold=0.5, include_history=True)
    assert jailbreak(rule, *turns).matched is True


def test_contrastive_is_the_difference_and_hybrid_the_surer() -> None:
    patterns = {"jailbreak_patterns": ("bad",), "benign_patterns": ("good",)}
    contrastive = JailbreakRule(name="r", method="contrastive", threshold=0.9, **patterns)
    assert jailbreak(contrastive, "bad").value == pytest.approx(1)
    assert jailbreak(contrastive, "long").matched is False  # of the whole text
    hybrid = JailbreakRule(name="r", method="hybrid", threshold=0.9, **patterns)
    assert jailbreak(hybrid, "long").matched is True
    assert jailbreak(hybrid, "good").matched is False


def test_a_rule_about_the_answer_is_unknown_before_it() -> None:
    rule = JailbreakRule(name="r", threshold=0.5, direction="response")
    assert jailbreak(rule, "bad").matched is None


def test_an_unsafe_text_is_one_whose_labels_add_up() -> None:
    safety = head("safety", ("safe", "unsafe", "worse"))
    vectors = {"both": vector(0.9, 1, 1), "good": vector(1, 0, 0)}
    rules = [
        SafetyRule(name=name, threshold=0.5, labels=safety.labels, unsafe_labels=unsafe)
        for name, unsafe in (("one", ("unsafe",)), ("two", ("unsafe", "worse")))
    ]

    def matched(text: str) -> list[str]:
        found = find(SafetyFinder(rules, safety), asked(text), vectors, {"safety": safety})
        return [name for name, result in found.items() if result.matched]

    assert matched("both") == ["two"]
    assert matched("good") == []


def test_labels_count_from_their_own_thresholds() -> None:
    own = head("classifier", ("a", "b"), activation="sigmoid", thresholds={"a": 0.4, "b": 0.999999})
    rule = ClassifierRule(name="r", type="local", labels=("a", "b"))
    finder = ClassifierFinder([rule], {"own": own}, {"r": "own"})
    found = find(finder, asked("bad"), VECTORS, {"own": own})
    assert {name: result.matched for name, result in found.items()} == {"r:a": True, "r:b": False}


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("write to a.b+c@mail.example.org", {"EMAIL_ADDRESS"}),
        ("the number is 321-54-9876.", {"US_SSN"}),
        ("the number is 000-54-9876, 321-00-9876 or 1321-54-9876", set()),
        ("card 4111 1111 1111 1111", {"CREDIT_CARD"}),
        ("card 4111 1111 1111 1112", set()),  # a wrong check digit
        ("pay to DE89 3704 0044 0532 0130 00", {"IBAN_CODE"}),
        ("pay to DE89 3704 0044 0532 0130 01", set()),
        ("the host 192.168.1.77 is down", {"IP_ADDRESS"}),
        ("version 1.2.3.4.5, and 999.1.1.1", set()),
        ("call +44 20 7946 0958 or (555) 010-4477", {"PHONE_NUMBER"}),
        ("1234567890 items in 2024-11-05", set()),
        ("I live at 12 Long Meadow Lane", {"STREET_ADDRESS"}),
        ("born on 1984-02-11", {"DATE_TIME"}),
        ("I am 37 years old", {"AGE"}),
        ("my zip code is 94110", {"ZIP_CODE"}),
        ("my driver's license number: D1234567", {"US_DRIVER_LICENSE"}),
        ("My name is Ada Byron", {"PERSON"}),
        ("氏名\uff1a山田太郎", {"PERSON"}),
        ("Mrs. Dalloway buys the flowers", {"PERSON"}),
        ("the name is not known, name: none", set()),
        ("Nationality: Peruvian", {"NRP"}),
        ("Compare French and Thai cooking, and what nationality is", set()),
    ],
)
def test_personal_data_by_its_form(text: str, kinds: set[str]) -> None:
    assert personal_data(text) == kinds


def test_forms_take_linear_time() -> None:
    """Ten times the text takes less than thirty times as long, also if it almost has a form."""

    def seconds(num: int) -> float:
        texts = ["1 " * num, "a@" * num, "1-" * num, "Name: A " * num, "born " * num, "A1" * num]
        begin = time.process_time()
        for text in texts:
            personal_data(text)
        return time.process_time() - begin

    assert seconds(20_000) < 30 * max(seconds(2_000), 0.01)


def test_a_long_text_keeps_no_other_request_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def noted(text: str) -> frozenset[str]:
        threads.append(threading.current_thread() is threading.main_thread())
        return personal_data(text)

    monkeypatch.setattr("flaxen.learned_signals.pii.personal_data", noted)
    finder = PiiFinder([PiiRule(name="r", threshold=0.7)], None)
    for text in ("write to a@b.example", "write to a@b.example. " * 1_000):
        assert find(finder, asked(text), {}, {})["r"].matched is True
    assert threads == [True, False]


def test_types_that_a_rule_allows_do_not_match() -> None:
    kinds = head("pii", ("PERSON", "NRP"), activation="sigmoid")

    def matched(head_of: object, text: str, *allowed: str) -> bool | None:
        rule = PiiRule(name="r", threshold=0.7, pii_types_allowed=allowed)
        finder = PiiFinder([rule], head_of)  # type: ignore[arg-type]
        vectors = {text: vector(0, 1), "good": vector(1, 0)}
        return find(finder, asked(text), vectors, {"pii": kinds})["r"].matched

    mail = "write to a@b.example"
    assert matched(None, mail) is True
    assert matched(None, mail, "email_address") is False
    assert matched(None, "nothing") is False
    assert matched(kinds, "nothing") is True  # NRP, by the head
    assert matched(kinds, "nothing", "NRP") is False
