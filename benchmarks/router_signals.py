"""The time of a router's rules without a model: 40 rules of keywords, and a decision by them.

The rules are such as the public reference's own configuration has: expressions in four languages,
some with a bounded distance between their parts. Each text is 300 words of this repository's
documents, in which some of the keywords are; every text is another one, as those of users are.

    python benchmarks/router_signals.py [--write]
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from report import report

from flaxen.router.decisions.ranking import Rules
from flaxen.router.decisions.tree import And, Leaf, Node, Not, Or, SignalKey
from flaxen.router.request import Message, RoutedRequest
from flaxen.router.signals.conversation import (
    ConversationFeature,
    ConversationRule,
    ConversationSource,
)
from flaxen.router.signals.finding import FreeSignals
from flaxen.router.signals.found import Found
from flaxen.router.signals.keyword import KeywordRule
from flaxen.router.signals.settings import SignalSettings
from tests.router.decisions.at_once import decide

TARGET_MS = 0.2
NUM_RULES, NUM_WORDS, MAX_TEXTS = 40, 300, 400
# Actions and what they are done to, in each language.
WORDS = {
    "en": ("fix explain prove compare review deploy", "answer design contract kernel budget proof"),
    "es": ("corrige explica demuestra compara revisa", "respuesta contrato prueba presupuesto"),
    "zh": ("修改 解释 证明 比较 检查", "答案 合同 预算 设计"),
    "ar": ("صحح اشرح أثبت قارن راجع", "الجواب العقد الميزانية التصميم"),
}
SHAPES = (
    r"\b({one}|{two})\b",
    r"({one}|{two}).{{0,48}}({thing}|{other})",
    r"(?:^|[.!?;,\n])\s*(?:please|then|now)?\s*({one}|{two}).{{0,24}}{thing}",
    r"(do not|don't|never|不要|لا).{{0,24}}({one}|{two})",
)


def keyword_rules() -> list[KeywordRule]:
    """Rules of 16 expressions: each shape in each language."""
    rules = []
    for index in range(NUM_RULES):
        patterns = []
        for actions, things in WORDS.values():
            verbs, nouns = actions.split(), things.split()
            words = {
                "one": verbs[index % len(verbs)],
                "two": verbs[(index + 1) % len(verbs)],
                "thing": nouns[index // 2 % len(nouns)],
                "other": nouns[(index // 2 + 1) % len(nouns)],
            }
            patterns += [shape.format(**words) for shape in SHAPES]
        rules.append(
            KeywordRule(name=f"k{index}", operator="OR", method="regex", keywords=tuple(patterns))
        )
    return rules


def decisions() -> list[Rules]:
    """Four decisions, as a recipe of the reference has: three trees over all rules, and one that
    matches every request."""

    def leaf(kind: str, name: str) -> Node:
        return Leaf(key=SignalKey(kind, name))

    rules = [Rules(name="rest", priority=0)]
    for index in range(3):
        words = [leaf("keyword", f"k{i}") for i in range(index, NUM_RULES, 3)]
        both = And((Or(tuple(words[:6])), Not(Or(tuple(words[6:9])))))
        tree = And((Or((both, *words[9:])), Not(leaf("conversation", "tool_loop"))))
        rules.append(Rules(name=f"d{index}", priority=100 + index, tree=tree))
    return rules


def texts() -> list[str]:
    """Texts of NUM_WORDS words each, of the repository's documents."""
    root = Path(__file__).resolve().parent.parent
    paths = [root / "ARCHITECTURE.md", *sorted((root / "docs").rglob("*.md"))]
    words = " ".join(path.read_text("utf-8") for path in paths).split()
    starts = range(0, len(words) - NUM_WORDS, NUM_WORDS)
    return [" ".join(words[start : start + NUM_WORDS]) for start in starts][:MAX_TEXTS]


def percentiles(
    name: str, run: Callable[[RoutedRequest], object], asked: Sequence[str]
) -> dict[str, float]:
    """The median and the 99th percentile, in ms, over requests that are new each time; the first
    half of them is not counted: what RE2 builds as it goes is then there."""
    times = []
    gc.disable()
    for text in asked:
        request = RoutedRequest(
            api="chat", model="auto", messages=(Message(role="user", text=text),)
        )
        start = time.perf_counter()
        run(request)
        times.append(1e3 * (time.perf_counter() - start))
    gc.enable()
    cold, warm = times[: len(times) // 2], sorted(times[len(times) // 2 :])
    figures = {
        f"{name}_p50_ms": round(statistics.median(warm), 4),
        f"{name}_p99_ms": round(warm[int(0.99 * len(warm))], 4),
        f"{name}_first_half_p50_ms": round(statistics.median(cold), 4),
        f"{name}_first_ms": round(cold[0], 3),
    }
    print(f"{name:<10} " + ", ".join(f"{key[len(name) + 1 :]} {v}" for key, v in figures.items()))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a router's rules.")
    parser.add_argument("--write", action="store_true", help="keep the result in the repository")
    write = parser.parse_args().write

    loop = ConversationRule(
        name="tool_loop",
        feature=ConversationFeature(
            type="exists", source=ConversationSource(type="active_tool_loop")
        ),
    )
    start = time.perf_counter()
    keywords = keyword_rules()
    signals = FreeSignals({"keywords": keywords, "conversation": [loop]}, SignalSettings())
    compile_ms = 1e3 * (time.perf_counter() - start)
    profile = decisions()

    def learned(key: SignalKey) -> Found | None:
        raise LookupError(f"{key} is no free signal")

    def decide_by_rules(request: RoutedRequest) -> object:
        find = signals.of(request)
        return decide(profile, lambda key: find(key.kind, key.name), learned).decided()

    asked = texts()
    figures: dict[str, float] = {
        "num_rules": NUM_RULES,
        "num_patterns": sum(len(rule.keywords) for rule in keywords),
        "num_texts": len(asked),
        "compile_ms": round(compile_ms, 1),
    }
    print(figures)
    figures |= percentiles("keywords", lambda r: signals.of(r)("keyword", "k0"), asked)
    figures |= percentiles("decision", decide_by_rules, asked)
    p50 = figures["decision_p50_ms"]
    print(
        f"a decision by rules alone: {p50} ms, {'within' if p50 < TARGET_MS else 'ABOVE'} the aim"
    )
    report("router-signals", figures, write=write)


if __name__ == "__main__":
    main()
