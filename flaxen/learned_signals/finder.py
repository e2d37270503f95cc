"""LearnedFinder: finds all rules of one kind in a request, by what an encoder reads of its texts.

Deliberately does not know: engines, timeouts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from flaxen.learned_signals.reading import Reading
from flaxen.router.request import RoutedRequest
from flaxen.router.signals.found import Found

# Reads a text. The same text goes through the encoder once, whoever asks.
Read = Callable[[str], Awaitable[Reading]]


class LearnedFinder(Protocol):
    """Finds the rules of a kind."""

    async def find(self, request: RoutedRequest, read: Read) -> Mapping[str, Found]:
        """What each name that conditions may have found in a request: NAME, NAME:LEVEL or
        NAME:LABEL."""
        ...
