"""Keywords: literal, regular expressions, with mistakes, by stems and by n-grams."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxen.router.request import Message
from flaxen.router.signals import extra
from flaxen.router.signals.bm25 import Bm25
from flaxen.router.signals.fuzzy import is_near
from flaxen.router.signals.ngram import Ngrams
from flaxen.router.signals.patterns import Pattern, Patterns
from tests.router.signals.rules import finder, found, of, with_messages


def is_found(keywords: list[str], text: str, **rule: Any) -> bool | None:
    return found("keywords", {"operator": "OR", "keywords": keywords, **rule}, text).matched


@pytest.mark.parametrize(
    ("keyword", "text", "expected"),
    [
        ("cat", "The Cat sat", True),
        ("cat", "concatenate", False),
        ("cat", "concat a cat", True),
        ("cat", "cat_food", False),
        ("machine learning", "on Machine Learning, mostly", True),
        ("C++", "I write C++ daily", True),
        ("C++", "abC++", False),
        (".NET", "ASP.NET", True),
        ("???", "what???", True),
        ("мир", "Привет, Мир!", True),
        ("мир", "мировой", False),
        ("café", "un Café noir", True),
        ("caf", "café", False),
        ("हिन्द", "हिन्दी", False),  # a vowel sign goes on with the word
        ("हिन्दी", "हिन्दी में", True),
        ("退款", "我想退款谢谢", True),
        ("こんにちは", "はいこんにちは", True),
        ("환불", "환불해 주세요", True),
        ("สวัสดี", "สวัสดีครับ", True),
        ("API", "调用API接口", True),
        ("a.c", "abc", False),
    ],
)
def test_a_literal_keyword_is_a_word(keyword: str, text: str, expected: bool) -> None:
    assert is_found([keyword], text) is expected


def test_a_blocked_place_hides_no_other_that_overlaps_it() -> None:
    assert is_found(["a a"], "ba a a")


@pytest.mark.parametrize(
    ("operator", "text", "expected"),
    [
        ("OR", "a red car", True),
        ("OR", "a car", False),
        ("AND", "a red car", False),
        ("AND", "red and blue", True),
        ("NOR", "a car", True),
        ("NOR", "a blue car", False),
    ],
)
@pytest.mark.parametrize("method", ["", "regex", "bm25", "ngram"])
def test_operators(operator: str, text: str, expected: bool, method: str) -> None:
    rule = {"operator": operator, "keywords": ["red", "blue"], "method": method}
    assert found("keywords", rule, text).matched is expected


@pytest.mark.parametrize("method", ["", "regex", "ngram"])
def test_case_counts_where_it_is_asked_for(method: str) -> None:
    assert is_found(["PIN"], "my pin", method=method)
    rule = {"method": method, "case_sensitive": True, "ngram_threshold": 1.0}
    assert not is_found(["PIN"], "my pin", **rule)
    assert is_found(["PIN"], "my PIN", **rule)


def test_expressions_are_those_of_re2() -> None:
    assert is_found([r"retry.{0,8}\d+"], "please RETRY it 3 times", method="regex")
    assert not is_found([r"^\w+$"], "größe", method="regex")  # ASCII, as in Go
    assert is_found([r"(?:不对|错了)"], "这个答案错了", method="regex")
    with pytest.raises(ValueError, match=r"'\(\?<=a\)b' can't be used: .*RE2's, which has no look"):
        is_found(["(?<=a)b"], "ab", method="regex")


def test_many_patterns_are_found_as_each_alone() -> None:
    """More than fit into one filter, some without a literal."""
    patterns = Patterns([*(f"word{i}[a-z]{{0,9}}end" for i in range(3_000)), r"\d\d", "[xy]z"])
    assert patterns.found("word17abcend and word2999end, 42") == {17, 2_999, 3_000}
    assert patterns.found("yz") == {3_001}
    assert patterns.found("") == set()
    assert Patterns([]).found("word1end") == set()


MIXED = ("(?i)ab", "(?i)a.?c", "b+c", "(?i)[cd]", "^a", "c$", "(?i)ä", "(?i)ab.{0,2}d", "e?")
EACH = [Pattern(source) for source in MIXED]
TOGETHER = Patterns(MIXED)


@given(st.text("abcdABCD äÄ\n", max_size=12))
def test_patterns_are_found_together_as_each_alone(text: str) -> None:
    alone = {index for index, pattern in enumerate(EACH) if pattern.is_in(text)}
    assert TOGETHER.found(text) == alone


def test_half_a_surrogate_pair_hides_nothing() -> None:
    assert is_found(["refund"], "\ud800 refund")


def test_rules_that_share_a_pass_find_what_they_find_alone() -> None:
    rules = [
        {"name": "a", "operator": "OR", "keywords": ["one", "two"]},
        {"name": "b", "operator": "AND", "keywords": ["one", "t.o"], "method": "regex"},
        {"name": "c", "operator": "NOR", "keywords": ["two"], "method": "bm25"},
        {"name": "d", "operator": "OR", "keywords": ["three", "two"], "fuzzy_match": True},
    ]
    for text in ("one", "one two", "twoo", "", "thre"):
        together = finder("keywords", *rules)(of(text))
        assert list(together) == [found("keywords", rule, text) for rule in rules]


def test_the_reason_names_what_was_found() -> None:
    rule = {"operator": "OR", "keywords": ["a", "b", "c", "d"]}
    assert found("keywords", rule, "b d").reason == "found 'b', 'd'"
    assert found("keywords", rule, "a b c d").reason == "found 'a', 'b', 'c' and 1 more"
    assert found("keywords", rule, "x").reason == "found no keyword"


def test_system_messages_are_read_only_without_a_user() -> None:
    rule = {"operator": "OR", "keywords": ["secret"]}
    system, user = Message(role="system", text="secret"), Message(role="user", text="hi")
    assert found("keywords", rule, with_messages([system])).matched
    assert not found("keywords", rule, with_messages([system, user])).matched


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("this is urgnet", True),
        ("this is urgent", True),
        ("this is urban", False),
        ("machne lerning rocks", True),
        ("machine", False),
    ],
)
def test_fuzzy(text: str, expected: bool) -> None:
    assert is_found(["urgent", "machine learning"], text, fuzzy_match=True) is expected


def test_fuzzy_edits_can_be_fewer() -> None:
    assert not is_found(["urgent"], "urgnet", fuzzy_match=True, fuzzy_threshold=1)
    assert is_found(["urgent"], "urgent", fuzzy_match=True, fuzzy_threshold=1)


def distance(one: str, other: str) -> int:
    """Levenshtein's distance by its definition."""
    if not one or not other:
        return len(one) + len(other)
    return min(
        distance(one[1:], other) + 1,
        distance(one, other[1:]) + 1,
        distance(one[1:], other[1:]) + (one[0] != other[0]),
    )


@given(st.text("ab", max_size=5), st.text("ab", max_size=5), st.integers(0, 3))
def test_near_is_levenshteins_distance(one: str, other: str, most: int) -> None:
    assert is_near(one, other, most) == (distance(one, other) <= most)


def test_bm25_is_its_formula() -> None:
    one = Bm25(["payments"], 0.1)
    assert one.scores("The payment failed") == {0: pytest.approx(math.log(4 / 3))}
    assert one.scores("pay payments, paid payment") == {0: pytest.approx(2 * math.log(4 / 3))}
    two = Bm25(["red car", "red"], 0.1)
    # Lengths 2 and 1, so 1.5 on average; "red" is in both keywords, "car" in one.
    idf_red, idf_car = math.log(1 + 0.5 / 2.5), math.log(1 + 1.5 / 1.5)
    long, short = 1.2 * (0.25 + 0.75 * 2 / 1.5), 1.2 * (0.25 + 0.75 / 1.5)
    scores = two.scores("Red cars")
    assert scores[0] == pytest.approx((idf_red + idf_car) * 2.2 / (1 + long))
    assert scores[1] == pytest.approx(idf_red * 2.2 / (1 + short))


def test_bm25_reads_words() -> None:
    assert is_found(["resume"], "my Résumé", method="bm25")
    assert is_found(["don't panic"], "Don\u2019t PANIC", method="bm25")
    assert is_found(["退款"], "请退货", method="bm25")
    assert not is_found(["privacy policy"], "the and of", method="bm25")
    assert not is_found(["payments"], "payment", method="bm25", bm25_threshold=5.0)


def test_ngrams_are_their_formula() -> None:
    grams = Ngrams(["abc"], arity=3, threshold=0.4, is_case_sensitive=False)
    assert grams.similarities("abc") == {0: 1.0}
    # 5 n-grams each with the spaces around them, 2 of them in both: 6 of 8 differ.
    assert grams.similarities("abd") == {0: pytest.approx(1 - (6 / 8) ** 2)}
    assert grams.similarities("xyz") == {}
    assert Ngrams(["aaaa"], arity=2, threshold=0.4, is_case_sensitive=False).similarities("aa") == {
        0: pytest.approx(1 - (2 / 5) ** 2)
    }


def test_ngrams_forgive_mistakes_and_read_short_texts_whole() -> None:
    assert is_found(["kubernetes"], "a kubernets cluster", method="ngram")
    assert is_found(["machine learning"], "machin learning", method="ngram")
    assert not is_found(["kubernetes"], "a computer", method="ngram")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"operator": "or"}, "operator 'or' is not known: give one of 'AND', 'OR', 'NOR'"),
        ({"method": "exact"}, "method 'exact' is not known"),
        ({"keywords": []}, "keywords must have at least 1, got 0"),
        ({"keywords": ["a", " "]}, "keywords has a blank text"),
        ({"name": " a"}, "name ' a' must have characters, and no white space around them"),
        ({"ngram_threshold": 1.5}, "ngram_threshold must be from 0 to 1, got 1.5"),
        ({"bm25_threshold": math.nan}, "bm25_threshold must be from 0 to"),
        ({"fuzzy_match": True, "keywords": ["AI"]}, "fuzzy_threshold 2 the keyword 'AI' matches"),
        ({"fuzzy_match": True, "method": "regex"}, "fuzzy_match compares the words of keywords"),
        ({"method": "bm25", "case_sensitive": True}, "stems, which are in lower case"),
        ({"method": "bm25", "keywords": ["the"]}, "the keyword 'the' has no others"),
        ({"method": "regex", "keywords": ["(a"]}, r"'\(a' can't be used: missing \)"),
        ({"method": "regex", "keywords": ["(a{1000}){9}"]}, "can't be used"),
    ],
)
def test_a_rule_that_says_nothing_is_refused(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        finder("keywords", {"operator": "OR", "keywords": ["refund"], **rule})


def test_what_is_not_installed_is_named() -> None:
    with pytest.raises(
        ValueError,
        match=r"keywords need the package google-re2, which is not installed: "
        r"pip install 'flaxen\[router\]'",
    ):
        extra.load_extra("no_such_module", "google-re2", "keywords")
