"""What a request may bring beside tokens.

Deliberately does not know: how any of it is computed. Standard library only.
"""

from __future__ import annotations

from typing import Protocol


class Grammar(Protocol):
    """Says which tokens may come next in one sequence, as the sequence goes on."""

    def fill_bitmask(self, bitmask: memoryview) -> None:
        """Allows tokens: bit v % 32 of number v // 32 is token v's.

        Args:
          bitmask: ceil(V / 32) numbers of 32 bits (format "I"), all 0. `numpy.asarray` takes them
            without a copy.
        """

    def accept_token(self, token_id: int) -> None:
        """Takes the token that was sampled, which is one of those that were allowed."""
