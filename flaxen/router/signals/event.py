"""Events: whether a text tells of an incident, by the words that name its type and how bad it is.

The words are looked for in the text itself; no format of events is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flaxen.router.request import RoutedRequest
from flaxen.router.signals.checks import NamedRule, check_choice, check_texts
from flaxen.router.signals.found import NOT_MATCHED, Found
from flaxen.router.signals.patterns import Pattern
from flaxen.router.signals.settings import Finder, SignalSettings
from flaxen.router.signals.words import Literal

SEVERITIES = ("critical", "high", "medium", "low")
_URGENT = r"(?i)\b(urgent|immediate|asap|deadline|time.sensitive|now|critical.window)\b"


@dataclass(frozen=True, kw_only=True)
class EventRule(NamedRule):
    """Whether a text has some of the words that are asked for; the more kinds of them, the surer.

    Attributes:
      event_types, action_codes: names of events and of what to do, as words of any case.
      severities: some of critical, high, medium and low.
      temporal: whether words of urgency count, such as "urgent" and "now".

    Raises:
      ValueError: nothing is asked for, a severity is unknown, or a name is blank.
    """

    event_types: tuple[str, ...] = ()
    severities: tuple[str, ...] = ()
    action_codes: tuple[str, ...] = ()
    temporal: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for severity in self.severities:
            check_choice(severity.strip().lower(), "severity", SEVERITIES)
        check_texts(self.event_types, "event_types", at_least=0)
        check_texts(self.action_codes, "action_codes", at_least=0)
        if not (self.event_types or self.severities or self.action_codes or self.temporal):
            raise ValueError(
                "the rule asks for nothing, so it can never match: give event_types, severities, "
                "action_codes or temporal"
            )


def find_events(rules: Sequence[EventRule], settings: SignalSettings) -> Finder:
    """The finder of a list of rules."""
    urgent = Pattern(_URGENT)
    wanted = [
        [
            (what, [Literal(word.strip()) for word in words])
            for what, words in (
                ("event_types", rule.event_types),
                ("severities", rule.severities),
                ("action_codes", rule.action_codes),
            )
            if words
        ]
        for rule in rules
    ]

    def find_one(index: int, text: str, lower: str) -> Found:
        found = [what for what, words in wanted[index] if any(word.is_in(lower) for word in words)]
        if rules[index].temporal and urgent.is_in(text):
            found.append("temporal")
        if not found:
            return NOT_MATCHED
        num_asked = len(wanted[index]) + rules[index].temporal
        return Found(
            matched=True,
            confidence=0.5 + 0.5 * len(found) / num_asked,
            reason=f"found {', '.join(found)}",
        )

    def find(request: RoutedRequest) -> list[Found]:
        text = request.evaluation_text
        lower = text.lower()
        return [find_one(i, text, lower) for i in range(len(rules))]

    return find
