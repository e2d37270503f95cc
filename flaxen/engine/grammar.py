"""A sequence's grammar, and the bitmask of the tokens that it allows next.

Deliberately does not know: what a grammar is made from, how the bitmask is applied, JAX.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import numpy as np

from flaxen.protocol import Grammar, Request


@final
class GrammarState:
    """The grammar of one sequence, as far as its tokens have reached the host.

    Args:
      make_grammar: makes the grammar of this sequence alone, at its beginning.
    """

    def __init__(self, make_grammar: Callable[[], Grammar]) -> None:
        self._make_grammar = make_grammar
        self._grammar, self._is_taken = make_grammar(), False

    def take(self) -> GrammarState:
        """The state for a sequence that begins: this one, and a new one from the second time on,
        because a checked request may be added again after its first sequence moved this state.
        """
        if self._is_taken:
            return GrammarState(self._make_grammar).take()
        self._is_taken = True
        return self

    def accept(self, token_id: int) -> None:
        """Takes a token that was sampled."""
        self._grammar.accept_token(token_id)

    def fill(self, bitmask: np.ndarray) -> None:
        """Writes the tokens that may come next into a bitmask [ceil(V / 32)] uint32."""
        bitmask[:] = 0
        self._grammar.fill_bitmask(bitmask.data)


def grammar_states(request: Request) -> tuple[GrammarState, ...]:
    """A grammar for each of a request's n sequences; none where it has no grammar."""
    if request.grammar is None:
        return ()
    return tuple(GrammarState(request.grammar) for _ in range(request.sampling.n))


def num_mask_words(vocab_size: int) -> int:
    """How many uint32 hold a bit for each token."""
    return -(-vocab_size // 32)
