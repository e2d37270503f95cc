"""Reask signals: whether the user asks the same again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flaxen.learned_signals.finder import Read
from flaxen.router.request import RoutedRequest
from flaxen.router.signals.embedded import ReaskRule
from flaxen.router.signals.found import NOT_MATCHED, Found


class ReaskFinder:
    """Reask rules: the turns before the current one that are as similar to it as a rule asks for,
    from the newest. Of rules that match, those that look back the farthest stay."""

    def __init__(self, rules: Sequence[ReaskRule]) -> None:
        self._rules = rules

    async def find(self, request: RoutedRequest, read: Read) -> Mapping[str, Found]:
        turns = [text for text in reversed(request.prior_user) if text.strip()]
        if not turns or not request.current_user.strip():
            return {rule.name: NOT_MATCHED for rule in self._rules}
        least = min(rule.threshold for rule in self._rules)
        current = (await read(request.current_user)).pooled
        cosines: list[float] = []
        for text in turns:  # each was the current one before, so that it is known as a rule
            cosines.append(float(current @ (await read(text)).pooled))
            if cosines[-1] < least:
                break
        found: dict[str, Found] = {}
        for rule in self._rules:
            streak = _streak(cosines, rule.threshold)
            lookback = cosines[: rule.lookback_turns]
            found[rule.name] = Found(
                matched=streak >= rule.lookback_turns,
                confidence=min(max(min(lookback), 0.0), 1.0),
                value=float(streak),
                reason=f"{streak} turns before are as similar as {rule.threshold:g}",
            )
        farthest = max((r.lookback_turns for r in self._rules if found[r.name].matched), default=0)
        return {
            rule.name: found[rule.name] if rule.lookback_turns == farthest else _not(found, rule)
            for rule in self._rules
        }


def _streak(cosines: Sequence[float], threshold: float) -> int:
    for index, cosine in enumerate(cosines):
        if cosine < threshold:
            return index
    return len(cosines)


def _not(found: Mapping[str, Found], rule: ReaskRule) -> Found:
    result = found[rule.name]
    return Found(matched=False, value=result.value, reason=result.reason)
