"""Keywords: whether words, regular expressions or texts like them stand in the request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from flaxen.router.request import RoutedRequest
from flaxen.router.signals.bm25 import Bm25
from flaxen.router.signals.checks import check_choice, check_name, check_range, check_texts
from flaxen.router.signals.found import Found
from flaxen.router.signals.fuzzy import Fuzzy
from flaxen.router.signals.ngram import Ngrams
from flaxen.router.signals.patterns import Patterns, check_pattern, ignoring_case, literal
from flaxen.router.signals.settings import Finder, SignalSettings
from flaxen.router.signals.words import Literal

OPERATORS = ("AND", "OR", "NOR")
METHODS = ("", "regex", "bm25", "ngram")

# The indices of a rule's keywords that are in a text, of those not found by their patterns.
Search = Callable[[str], set[int]]


@dataclass(frozen=True, kw_only=True)
class KeywordRule:
    """Whether all (AND), some (OR) or none (NOR) of the keywords are in the text.

    Attributes:
      keywords: words or phrases; regular expressions with method "regex".
      method: "" for the keywords themselves, as words; "regex"; "bm25" for their words by stems;
        "ngram" for words that share runs of characters with them.
      case_sensitive: whether case counts.
      fuzzy_match, fuzzy_threshold: without a method: words at most so many edits away match too.
        0 edits stands for the default, 2.
      bm25_threshold: the least score of a keyword; 0 stands for 0.1.
      ngram_threshold: the least similarity of a keyword, up to 1; 0 stands for 0.4.
      ngram_arity: the characters of a run; 0 stands for 3, and less than 2 for 2.

    Raises:
      ValueError: a field is out of its range, or would make the rule hold always or never.
    """

    name: str
    operator: str
    keywords: tuple[str, ...]
    case_sensitive: bool = False
    method: str = ""
    fuzzy_match: bool = False
    fuzzy_threshold: int = 2
    bm25_threshold: float = 0.1
    ngram_threshold: float = 0.4
    ngram_arity: int = 3

    def __post_init__(self) -> None:
        check_name(self.name)
        check_choice(self.operator, "operator", OPERATORS)
        check_choice(self.method, "method", METHODS)
        check_texts(self.keywords, "keywords")
        check_range(self.fuzzy_threshold, "fuzzy_threshold", 0, 16)
        check_range(self.bm25_threshold, "bm25_threshold", 0, 1e6)
        check_range(self.ngram_threshold, "ngram_threshold", 0, 1)
        check_range(self.ngram_arity, "ngram_arity", 0, 16)
        if self.method == "regex":
            for keyword in self.keywords:
                check_pattern(ignoring_case(keyword, self.case_sensitive))
        if self.method == "bm25":
            Bm25(self.keywords, self.bm25_threshold)  # refuses a keyword without a word that counts
        if self.fuzzy_match:
            self._check_fuzzy()
        if self.case_sensitive and self.method == "bm25":
            raise ValueError(
                "method bm25 compares stems, which are in lower case: remove case_sensitive"
            )

    def _check_fuzzy(self) -> None:
        if self.method:
            raise ValueError(
                f"fuzzy_match compares the words of keywords, which method {self.method!r} does "
                "not search for: remove one of them"
            )
        for keyword in self.keywords:
            if len(keyword) <= self.max_edits:
                raise ValueError(
                    f"with fuzzy_threshold {self.max_edits} the keyword {keyword!r} matches every "
                    "word of its length: give a smaller threshold, or put it into another rule"
                )

    @property
    def max_edits(self) -> int:
        """How many edits away a fuzzy match may be."""
        return self.fuzzy_threshold or 2


def find_keywords(rules: Sequence[KeywordRule], settings: SignalSettings) -> Finder:
    """The finder of a list of rules: the patterns of all are searched in one pass over the text."""
    matchers = [_Matcher(rule) for rule in rules]
    owners = [
        (index, keyword)
        for index, rule in enumerate(rules)
        if rule.method in ("", "regex")
        for keyword in range(len(rule.keywords))
    ]
    patterns = Patterns([_source(rules[index], keyword) for index, keyword in owners])

    def find(request: RoutedRequest) -> list[Found]:
        text = request.evaluation_text
        candidates: dict[int, set[int]] = {}
        for pattern in patterns.found(text):
            index, keyword = owners[pattern]
            candidates.setdefault(index, set()).add(keyword)
        nothing: frozenset[int] = frozenset()
        lower = text.lower() if candidates else ""
        return [
            matcher.find(text, lower, candidates.get(index, nothing))
            for index, matcher in enumerate(matchers)
        ]

    return find


def _source(rule: KeywordRule, keyword: int) -> str:
    text = rule.keywords[keyword]
    return ignoring_case(text if rule.method == "regex" else literal(text), rule.case_sensitive)


class _Matcher:
    """One rule, ready to be matched."""

    def __init__(self, rule: KeywordRule) -> None:
        self._rule = rule
        self._words = (
            [Literal(k, is_case_sensitive=rule.case_sensitive) for k in rule.keywords]
            if not rule.method
            else []
        )
        self._search = _search(rule)
        self._nothing = Found(matched=rule.operator == "NOR", reason="found no keyword")

    def find(self, text: str, lower: str, candidates: AbstractSet[int]) -> Found:
        """What the rule finds in a text, and the same in lower case if patterns found keywords in
        it, which are the candidates."""
        matched = set(candidates)
        if self._words:
            # A pattern says that the characters are there; where words begin is asked here.
            read = text if self._rule.case_sensitive else lower
            matched = {index for index in matched if self._words[index].is_in(read)}
        keywords = self._rule.keywords
        if self._search is not None and len(matched) < len(keywords):
            matched |= self._search(text)
        if not matched:
            return self._nothing
        names = ", ".join(repr(keywords[index]) for index in sorted(matched)[:3])
        more = f" and {len(matched) - 3} more" if len(matched) > 3 else ""
        operator = self._rule.operator
        holds = operator == "OR" or (operator == "AND" and len(matched) == len(keywords))
        return Found(matched=holds, reason=f"found {names}{more}")


def _search(rule: KeywordRule) -> Search | None:
    if rule.method == "bm25":
        return Bm25(rule.keywords, rule.bm25_threshold or 0.1).search
    if rule.method == "ngram":
        return Ngrams(
            rule.keywords,
            arity=max(2, rule.ngram_arity or 3),
            threshold=rule.ngram_threshold or 0.4,
            is_case_sensitive=rule.case_sensitive,
        ).search
    return Fuzzy(rule.keywords, rule.max_edits).search if rule.fuzzy_match else None
