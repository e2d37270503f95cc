"""Counts the tokens of reasoning, its markers included. Knows nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from flaxen.output_parsers.events import Event, Reasoning, ToolCall


class ReasoningTokens:
    """The tokens of one answer that are reasoning. Final.

    Tokens that give no text yet, such as those of a marker, belong to what came before them; at the
    beginning to what comes next.
    """

    def __init__(self) -> None:
        self.num = 0
        self._num_undecided = 0  # before anything came
        self._in_reasoning: bool | None = None

    def count(self, num_tokens: int, events: Sequence[Event]) -> None:
        """Adds tokens that came together, and what their text is."""
        if not events:
            if self._in_reasoning is None:
                self._num_undecided += num_tokens
            elif self._in_reasoning:
                self.num += num_tokens
            return
        if self._in_reasoning is None and isinstance(events[0], Reasoning):
            self.num += self._num_undecided
        self._num_undecided = 0
        # Tokens that came in one event have no places in its text: they are shared by its lengths.
        lengths = [len(e.arguments if isinstance(e, ToolCall) else e.text) for e in events]
        pairs = zip(lengths, events, strict=True)
        reasoning = sum(length for length, e in pairs if isinstance(e, Reasoning))
        self.num += round(num_tokens * reasoning / max(1, sum(lengths)))
        self._in_reasoning = isinstance(events[-1], Reasoning)
