"""Which grammars decide what a step samples. Deliberately does not know how, or when; JAX."""

from __future__ import annotations

from collections.abc import Iterable

from flaxen.scheduling.plan import Scheduled
from flaxen.structured.states import GrammarState


def has_grammar(items: Iterable[Scheduled]) -> bool:
    """Whether a sequence that samples has a grammar."""
    return any(item.samples and item.sequence.grammar is not None for item in items)


def deciding_grammars(items: Iterable[Scheduled]) -> list[tuple[GrammarState | None, int]]:
    """The grammar of each item that decides its tokens, and the number of its drafts; None where
    all tokens are allowed.
    """
    return [
        (
            item.sequence.grammar if item.samples and not item.sequence.ended else None,
            item.num_drafts,
        )
        for item in items
    ]
