"""The signals of a recipe by the names that conditions use."""

from __future__ import annotations

from dataclasses import dataclass, field

from flaxen.router.decisions.tree import PROJECTION, SignalKey
from flaxen.router.signals.kinds import KINDS, SignalKind
from flaxen.router_config.reading import suggestion
from flaxen.router_config.routing import Signals

LEVELS = ("easy", "medium", "hard")
# What the classifier of topics knows: a domain that is not declared must be one of them.
TOPICS = (
    "biology",
    "business",
    "chemistry",
    "computer science",
    "economics",
    "engineering",
    "health",
    "history",
    "law",
    "math",
    "other",
    "philosophy",
    "physics",
    "psychology",
)
NOWHERE = SignalKey("", "")  # stands for a name that is no signal's, until the error is raised
_KIND_OF = {kind.condition: kind for kind in KINDS if kind.condition}


@dataclass
class Names:
    """What conditions and scores of a recipe may name.

    Attributes:
      outputs: the outputs of its mappings.
      domains: those that conditions name without a declaration; filled by `key`.
    """

    signals: Signals
    outputs: frozenset[str]
    domains: set[str] = field(default_factory=set)

    def key(self, kind: str, name: str, label: str = "") -> SignalKey:
        """The key of what a condition names.

        Raises:
          ValueError: there is no such signal.
        """
        kind = kind.strip().lower()
        if kind == PROJECTION:
            if label:
                raise ValueError("a projection has no labels: remove label")
            self._check(name, self.outputs, "output of a mapping")
            return SignalKey(kind, name)
        if kind not in _KIND_OF:
            raise ValueError(
                f"unknown type of condition {kind!r}: {suggestion(kind, [*_KIND_OF, PROJECTION])}"
            )
        found = _KIND_OF[kind]
        if found.labels:
            return self._labelled(found, name, label)
        if label:
            raise ValueError(f"a {kind} has no labels: remove label")
        known = self._names(found)
        if kind == "complexity":
            rule, _, level = name.rpartition(":")
            if level not in LEVELS:
                raise ValueError(
                    f"a complexity is named RULE:LEVEL with a level of {', '.join(LEVELS)}, got "
                    f"{name!r}"
                )
            self._check(rule, known, kind)
        elif kind == "domain" and not known:
            self._check(name, TOPICS, "topic, and no domains are declared")
            self.domains.add(name)
        else:
            self._check(name, known, kind)
        return SignalKey(kind, name)

    def check_rule(self, kind: str, name: str) -> None:
        """Raises ValueError unless the recipe has a signal of that kind and name."""
        if kind not in _KIND_OF:
            raise ValueError(f"unknown kind of signal {kind!r}: {suggestion(kind, [*_KIND_OF])}")
        self._check(name, self._names(_KIND_OF[kind]), kind)

    def _labelled(self, kind: SignalKind, name: str, label: str) -> SignalKey:
        if not label:
            name, _, label = name.partition(":")
        self._check(name, self._names(kind), kind.condition)
        rules = self.signals.rules[kind.collection]
        labels = next(getattr(rule, kind.labels) for rule in rules if rule.name == name)
        if not label:
            raise ValueError(f"give label, one of {', '.join(labels)}")
        self._check(label, labels, f"label of {name}")
        return SignalKey(kind.condition, f"{name}:{label}")

    def _names(self, kind: SignalKind) -> frozenset[str]:
        rules = self.signals.rules.get(kind.collection, ())
        return frozenset(getattr(rule, kind.named_by) for rule in rules)

    def _check(self, name: str, known: frozenset[str] | tuple[str, ...], what: str) -> None:
        if name not in known:
            hint = suggestion(name, list(known)) if known else "declare it"
            raise ValueError(f"{name!r} is no {what}: {hint}")
