"""PII signals: personal data by its form, and by a head for what has none."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from flaxen.learned_signals.finder import Read
from flaxen.learned_signals.guarding import harm, read_all, texts_read
from flaxen.learned_signals.head import Head
from flaxen.learned_signals.personal_data import personal_data
from flaxen.router.request import RoutedRequest
from flaxen.router.signals.found import Found
from flaxen.router.signals.guards import PiiRule

_LONG_TEXT = 20_000  # characters, whose forms are looked for beside the event loop: 20 ms


class PiiFinder:
    """PII rules: a type that a rule does not allow, found by its form or by the head `pii`.

    Args:
      head: None finds by form alone.
    """

    def __init__(self, rules: Sequence[PiiRule], head: Head | None) -> None:
        self._rules, self._head = rules, head

    async def find(self, request: RoutedRequest, read: Read) -> Mapping[str, Found]:
        return {rule.name: await self._one(rule, request, read) for rule in self._rules}

    async def _one(self, rule: PiiRule, request: RoutedRequest, read: Read) -> Found:
        texts = texts_read(request, rule.include_history)
        shares = {kind: 1.0 for text in texts for kind in await _by_form(text)}
        if self._head is not None and texts:
            best = (await harm(await read_all(texts, read), "pii")).max(axis=0, initial=0.0)
            for label, share in zip(self._head.labels, map(float, best), strict=True):
                shares[label] = max(share, shares.get(label, 0.0))
        allowed = {name.upper() for name in rule.pii_types_allowed}
        refused = {kind: share for kind, share in shares.items() if kind.upper() not in allowed}
        kinds = sorted(kind for kind, share in refused.items() if share >= rule.threshold)
        return Found(
            matched=bool(kinds),
            value=max(refused.values(), default=0.0),
            reason=f"has {', '.join(kinds)}" if kinds else "has none of what is not allowed",
        )


async def _by_form(text: str) -> frozenset[str]:
    if len(text) < _LONG_TEXT:
        return personal_data(text)
    return await asyncio.to_thread(personal_data, text)
