"""A grammar that a matcher follows: `protocol.Grammar` through llguidance.

Deliberately does not know: where the matcher's grammar came from.
"""

from __future__ import annotations

from typing import Protocol, final

import llguidance
import numpy as np

from flaxen.structured.vocabulary import Bitmask, Vocabulary


class Bounds(Protocol):
    """What bounds a text beyond its grammar."""

    def push(self, data: bytes) -> None:
        """Reads the next bytes of the text."""

    def narrow(self, bitmask: Bitmask) -> None:
        """Takes tokens out of those that may come next, never all of them."""

    def copy(self) -> Bounds:
        """The same at the same place."""


@final
class MatchedGrammar:
    """The grammar of one sequence.

    Args:
      matcher: at its beginning; nobody else uses it.
      vocabulary: the model's tokens.
      bounds: bounds the text further; None does not.
    """

    def __init__(
        self, matcher: llguidance.LLMatcher, vocabulary: Vocabulary, bounds: Bounds | None
    ) -> None:
        self._matcher, self._vocabulary, self._bounds = matcher, vocabulary, bounds

    def fill_bitmask(self, bitmask: memoryview) -> None:
        """Allows tokens, as `protocol.Grammar` says. Lets Python's other threads run.

        Raises:
          RuntimeError: the matcher gave up, because the grammar is too ambiguous.
        """
        words = np.asarray(bitmask)
        self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        self._check()
        if self._bounds is not None:
            self._bounds.narrow(words)

    def accept_token(self, token_id: int) -> None:
        """Takes the token that was sampled.

        Raises:
          RuntimeError: it was not allowed, or the matcher gave up.
        """
        self._matcher.consume_token(token_id)
        self._check()
        if self._bounds is not None:
            self._bounds.push(self._vocabulary.bytes_of(token_id))

    def fork(self) -> MatchedGrammar:
        """Another one at the same place."""
        bounds = None if self._bounds is None else self._bounds.copy()
        return MatchedGrammar(self._matcher.deep_copy(), self._vocabulary, bounds)

    def forced_tokens(self) -> list[int]:
        """The tokens of the text that must come next."""
        forced: list[int] = self._matcher.compute_ff_tokens()
        return forced

    def _check(self) -> None:
        # After an error a matcher would allow the end, in the middle of the output.
        if self._matcher.is_error():
            error = " ".join(self._matcher.get_error().split()).removesuffix(" <non-verbose/>")
            raise RuntimeError(f"the grammar can't be followed: {error}")
