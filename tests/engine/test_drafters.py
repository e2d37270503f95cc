"""The drafters that only read: against the same by hand, and how long they take."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxen.engine.speculative.config import read_config
from flaxen.engine.speculative.drafter import Drafter
from flaxen.engine.speculative.ngram import Ngrams
from flaxen.engine.speculative.suffix import Suffixes
from flaxen.scheduling.sequence import Sequence
from tests.engine.fakes import sequence_of

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=40)


def asked(drafter: Drafter, sequence: Sequence, most: int = 4) -> list[int]:
    return list(drafter.propose({sequence: most}).get(sequence, ()))


def suffixes(**changes: object) -> Suffixes:
    prefixed = {f"suffix_decoding_{key}": value for key, value in changes.items()}
    return Suffixes(read_config({"method": "suffix", **prefixed}))


def ended(drafter: Suffixes, prompt: list[int], output: list[int], salt: str = "") -> None:
    sequence = sequence_of([*prompt, *output], len(prompt))
    sequence.cache_salt = salt
    drafter.end(sequence)


def by_hand(tokens: list[int], shortest: int, longest: int, most: int) -> list[int]:
    """The longest match, and of equal ones the last; what repeats up to the end goes on."""
    for size in range(min(longest, len(tokens) - 1), shortest - 1, -1):
        for end in range(len(tokens) - 1, size - 1, -1):
            if tokens[end - size : end] == tokens[-size:]:
                period = tokens[end:]
                return [period[i % len(period)] for i in range(most)]
    return []


@given(tokens=TOKENS, more=TOKENS, shortest=st.integers(1, 3), num_longer=st.integers(0, 2))
def test_ngrams_are_those_found_by_hand(
    tokens: list[int], more: list[int], shortest: int, num_longer: int
) -> None:
    longest = shortest + num_longer
    drafter, sequence = Ngrams(shortest, longest), sequence_of(tokens)
    for token in more:
        known = sequence.tokens
        # Beyond 32 occurrences of the shortest match it is not looked for longer ones.
        if sum(known[i:][:shortest] == known[-shortest:] for i in range(len(known))) < 32:
            assert asked(drafter, sequence) == by_hand(known, shortest, longest, 4)
        sequence.tokens.append(token)


def test_a_suffix_is_drafted_as_long_as_it_matches() -> None:
    drafter, text = suffixes(), list(range(10, 60))
    for matched, expected in ((2, 0), (3, 3), (5, 5), (12, 12), (20, 12)):
        sequence = sequence_of([*text, 99, *text[:matched]])
        assert asked(drafter, sequence, 15) == text[matched:][:expected]
    twice = suffixes(max_spec_factor=2.0)
    assert asked(twice, sequence_of([*text, 99, *text[:3]]), 15) == text[3:9]


def test_a_suffix_takes_what_came_most_often_while_it_is_likely() -> None:
    ones = [1, 2, 3, 4, 5, 6]
    text = [*ones, 7, 20, *ones, 7, 21, *ones, 8, 22, *ones]
    assert asked(suffixes(), sequence_of(text))[0] == 7
    assert asked(suffixes(min_token_prob=0.7), sequence_of(text)) == []


def test_outputs_of_ended_requests_are_found_by_their_own_tenant_alone() -> None:
    drafter = suffixes()
    ended(drafter, [50], [1, 2, 3, 4, 5, 6], salt="a")
    sequence = sequence_of([9, 1, 2, 3])
    assert asked(drafter, sequence) == []
    sequence = sequence_of([9, 1, 2, 3])
    sequence.cache_salt = "a"
    assert asked(drafter, sequence) == [4, 5, 6]
    assert asked(drafter, sequence_of([50, 1, 2, 3])) == []  # prompts are not kept


def test_kept_requests_are_bounded() -> None:
    drafter = suffixes(max_cached_requests=4)
    for first in range(0, 50, 10):
        ended(drafter, [0], list(range(first + 100, first + 110)))
    found = [asked(drafter, sequence_of([0, *range(f + 100, f + 103)])) for f in range(0, 50, 10)]
    assert [bool(each) for each in found] == [False, False, True, True, True]
    nothing = suffixes(max_cached_requests=0)
    ended(nothing, [0], list(range(100, 110)))
    assert asked(nothing, sequence_of([0, 100, 101, 102])) == []


@pytest.mark.parametrize("drafter", [Ngrams(3, 5), suffixes()], ids=["ngram", "suffix"])
def test_a_token_is_drafted_in_less_than_a_tenth_of_a_millisecond(drafter: Drafter) -> None:
    """The processor's time is counted: other work on the machine does not count."""
    rng = random.Random(0)
    phrases = [[rng.randrange(1000) for _ in range(12)] for _ in range(20)]
    text = [token for _ in range(300) for token in rng.choice(phrases)]
    if isinstance(drafter, Suffixes):
        ended(drafter, [0], text[:2000])
    sequence = sequence_of(text[:2400])
    asked(drafter, sequence)
    started = time.thread_time()
    for token in text[2400:]:
        sequence.tokens.append(token)
        asked(drafter, sequence, 15)
    assert (time.thread_time() - started) / len(text[2400:]) < 100e-6
