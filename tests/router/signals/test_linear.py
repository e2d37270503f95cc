"""Signals take a time that is linear in the text, also for texts that are made to be slow."""

from __future__ import annotations

import gc
import itertools
import string
import time
from collections.abc import Callable
from typing import Any

import pytest

from flaxen.router.request import Message
from flaxen.router.signals.kinds import KINDS
from flaxen.router.signals.settings import ModalityDetector, SignalSettings
from tests.router.signals.rules import finder, of, with_messages

SHORT, LONG = 100_000, 1_000_000  # characters
# Ten times the text may take 30 times as long, for caches that no longer hold it; a quadratic
# signal takes 100 times as long.
MOST = 30


def different_words(size: int) -> str:
    """A text of words of six letters, no two alike."""
    letters = itertools.product(string.ascii_lowercase, repeat=6)
    return " ".join("".join(word) for word in itertools.islice(letters, size // 7))


def repeated(unit: str) -> Callable[[int], str]:
    return lambda size: (unit * (size // len(unit) + 1))[:size]


KEYWORDS = ("urgent", "machine learning", "privacy", "deployment")
NESTED = ("(x+x+)+y", "(x|xx)*z", "x{0,48}a.{0,48}b")
TOOL = Message(role="tool", text="x")
SETTINGS = SignalSettings(
    modality=ModalityDetector(method="keyword", keywords=("draw",), both_keywords=("explain",))
)

CASES: dict[str, tuple[str, dict[str, Any], Callable[[int], str]]] = {
    "literal": ("keywords", {"operator": "OR", "keywords": ["cat"]}, repeated("catcat")),
    "borders": ("keywords", {"operator": "OR", "keywords": ["xx xx"]}, repeated("xx x")),
    "regex": (
        "keywords",
        {"operator": "NOR", "method": "regex", "keywords": NESTED},
        repeated("x"),
    ),
    "counters": (
        "keywords",
        {"operator": "AND", "method": "regex", "keywords": ["(a|b|ab).{0,48}(c|d).{0,48}e"]},
        repeated("ab c bd ba "),
    ),
    "fuzzy": (
        "keywords",
        {"operator": "OR", "keywords": KEYWORDS, "fuzzy_match": True},
        different_words,
    ),
    "fuzzy of one word": (
        "keywords",
        {"operator": "OR", "keywords": KEYWORDS, "fuzzy_match": True},
        repeated("urgen"),
    ),
    "bm25": (
        "keywords",
        {"operator": "OR", "method": "bm25", "keywords": KEYWORDS},
        different_words,
    ),
    "ngram": (
        "keywords",
        {"operator": "OR", "method": "ngram", "keywords": KEYWORDS},
        different_words,
    ),
    "ngram of one word": (
        "keywords",
        {"operator": "OR", "method": "ngram", "keywords": KEYWORDS},
        repeated("urgen"),
    ),
    "count that looks ahead": (
        "structure",
        {"feature": {"type": "count", "source": {"type": "regex", "pattern": "first(.*then)?"}}},
        repeated("first "),
    ),
    "density": (
        "structure",
        {"feature": {"type": "density", "source": {"type": "keyword_set", "keywords": ["ab"]}}},
        repeated("ab abc "),
    ),
    "sequence": (
        "structure",
        {
            "feature": {
                "type": "sequence",
                "source": {"type": "sequence", "sequences": [["a", "b"]]},
            }
        },
        repeated("a "),
    ),
    "event": ("events", {"event_types": ["db_down"], "temporal": True}, repeated("db_down_ no ")),
    "language": ("language", {"name": "en"}, different_words),
    "context": ("context", {"min_tokens": "1K"}, repeated("word ")),
    "modality": ("modality", {"name": "AR"}, repeated("dra ")),
    "metadata": ("metadata", {"key": "k", "predicate": {"exists": True}}, repeated("x")),
    "roles": (
        "role_bindings",
        {"role": "r", "subjects": [{"kind": "Group", "name": "g"}]},
        repeated("x"),
    ),
    "input modality": ("input_modality", {"modality": "text"}, repeated("x")),
    "conversation": (
        "conversation",
        {"feature": {"type": "exists", "source": {"type": "active_tool_loop"}}},
        repeated("x"),
    ),
}


def test_every_free_kind_is_measured() -> None:
    measured = {collection for collection, _, _ in CASES.values()}
    assert measured == {kind.collection for kind in KINDS if kind.prepare is not None}


@pytest.mark.parametrize("case", CASES)
def test_ten_times_the_text_takes_about_ten_times_as_long(case: str) -> None:
    collection, rule, text = CASES[case]
    warm_up = of("so that what is loaded once is loaded")

    def find(size: int) -> Callable[[], object]:
        finds = finder(collection, rule, settings=SETTINGS)  # knows no word yet
        request = of(text(size))
        finds(warm_up)
        return lambda: finds(request)

    assert grows_linearly(lambda: find(SHORT), lambda: find(LONG))


def test_many_messages_take_about_as_long_as_they_are_many() -> None:
    finds = finder(
        "conversation",
        {"feature": {"type": "exists", "source": {"type": "flow_tool_state"}}},
        {"feature": {"type": "exists", "source": {"type": "active_tool_loop"}}, "name": "loop"},
    )

    def find(number: int) -> Callable[[], object]:
        request = with_messages([TOOL] * number)
        return lambda: finds(request)

    assert grows_linearly(lambda: find(1_000), lambda: find(10_000))


def test_what_grows_with_the_square_is_noticed() -> None:
    def square(size: int) -> Callable[[], object]:
        return lambda: sum(1 for _ in range(size * size))

    assert not grows_linearly(lambda: square(60), lambda: square(600))


def grows_linearly(
    short: Callable[[], Callable[[], object]], long: Callable[[], Callable[[], object]]
) -> bool:
    """Whether the long run takes less than MOST times the short one. Each is prepared anew. Others
    use the machine, so a ratio that is too large is measured again, twice."""
    for _ in range(3):
        at_short = max(min(seconds(short()) for _ in range(2)), 1e-4)
        if seconds(long()) < MOST * at_short:
            return True
    return False


def seconds(run: Callable[[], object]) -> float:
    """The thread's own time for a run, without what the garbage collector takes."""
    gc.disable()
    start = time.thread_time()
    run()
    took = time.thread_time() - start
    gc.enable()
    return took
