"""The grammars of an engine's sequences, and the bitmasks of the tokens that they allow next.

Deliberately does not know: what a grammar is made from, how bitmasks are applied, JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def fill_bitmasks(
    grammars: Sequence[GrammarState | None], vocab_size: int
) -> tuple[np.ndarray, dict[int, Exception]]:
    """Asks grammars, whose tokens have all been accepted, for what may come next.

    They are asked while the device computes a step, because only its sampling needs them.

    Args:
      grammars: one for each sequence of the step; None allows all tokens.
      vocab_size: V.

    Returns:
      A line for each, [len(grammars), ceil(V / 32)] uint32, and what those raised that failed, by
      their index; their lines allow all tokens.
    """
    bitmasks = np.full((len(grammars), num_mask_words(vocab_size)), 0xFFFF_FFFF, np.uint32)
    failures: dict[int, Exception] = {}
    for index, grammar in enumerate(grammars):
        if grammar is not None:
            try:
                grammar.fill(bitmasks[index])
            except Exception as error:  # whatever it is, it is this grammar's own
                bitmasks[index] = 0xFFFF_FFFF
                failures[index] = error
    return bitmasks, failures


def num_mask_words(vocab_size: int) -> int:
    """How many uint32 hold a bit for each token."""
    return -(-vocab_size // 32)
