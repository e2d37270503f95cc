"""FreeSignals: finds the signals that need no model, each kind at most once a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flaxen.router.request import RoutedRequest
from flaxen.router.signals.found import Found
from flaxen.router.signals.kinds import KINDS
from flaxen.router.signals.settings import Finder, SignalSettings

# From the type and the name of a condition to what its rule found; None where a model must find it.
FindFree = Callable[[str, str], Found | None]


class FreeSignals:
    """The free signals of a configuration, compiled.

    Args:
      rules: the rules by the names of their collections; those that no decision reads cost time
        for nothing. Learned kinds may be among them.
      settings: what they share.

    Raises:
      ValueError: a rule can't be compiled, or its library is not installed.
    """

    def __init__(self, rules: Mapping[str, Sequence[Any]], settings: SignalSettings) -> None:
        self._finders: dict[str, Finder] = {}
        self._names: dict[str, list[str]] = {}
        for kind in KINDS:
            of_kind = rules.get(kind.collection, ())
            if of_kind and kind.prepare is not None:
                self._finders[kind.condition] = kind.prepare(of_kind, settings)
                self._names[kind.condition] = [getattr(rule, kind.named_by) for rule in of_kind]

    def of(self, request: RoutedRequest) -> FindFree:
        """The function that finds them in a request: all rules of a kind when one is asked for.

        It raises KeyError for a name that no rule of a free kind has.
        """
        found: dict[str, dict[str, Found]] = {}

        def find(condition: str, name: str) -> Found | None:
            if condition not in self._finders:
                return None
            if condition not in found:
                results = self._finders[condition](request)
                found[condition] = _by_name(self._names[condition], results)
            return found[condition][name]

        return find


def _by_name(names: Sequence[str], results: Sequence[Found]) -> dict[str, Found]:
    """Results by name; of one name that several rules have, the one that says most: true before
    unknown before false."""
    by_name: dict[str, Found] = {}
    for name, result in zip(names, results, strict=True):
        before = by_name.get(name)
        if before is None or _weight(result) > _weight(before):
            by_name[name] = result
    return by_name


def _weight(found: Found) -> int:
    return 2 if found.matched else int(found.matched is None)
