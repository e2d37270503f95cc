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
        # The bitmasks of the next token and of those behind drafts, once they are worked out.
        self._bitmasks: np.ndarray | None = None

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
        self._bitmasks = None
        self._grammar.accept_token(token_id)

    def forced_tokens(self) -> Sequence[int]:
        """The tokens that must come next, as far as the grammar knows them."""
        return self._grammar.forced_tokens()

    def allowed_drafts(self, drafts: Sequence[int], vocab_size: int) -> Sequence[int]:
        """The first of these tokens, as far as each may come after those before it."""
        bitmasks = np.zeros((1 + len(drafts), num_mask_words(vocab_size)), np.uint32)
        num_allowed = 0
        try:
            grammar = self._grammar.fork()
            grammar.fill_bitmask(bitmasks[0].data)
            for token_id in drafts:
                word, bit = divmod(token_id, 32)
                if not int(bitmasks[num_allowed, word]) >> bit & 1:
                    break
                grammar.accept_token(token_id)
                grammar.fill_bitmask(bitmasks[num_allowed + 1].data)
                num_allowed += 1
        except RuntimeError:
            pass  # where the copy can't go on, the sequence itself will find out
        self._bitmasks = bitmasks if num_allowed else None
        return drafts[:num_allowed]

    def fill(self, bitmasks: np.ndarray) -> None:
        """Writes the tokens that may come next into the first of the bitmasks
        [1 + drafts, ceil(V / 32)] uint32, and those that may come after each draft into the others.
        """
        if self._bitmasks is not None:
            bitmasks[:] = self._bitmasks[: len(bitmasks)]
            return
        assert len(bitmasks) == 1, "drafts that were not checked"
        bitmasks[:] = 0
        self._grammar.fill_bitmask(bitmasks[0].data)


def grammar_states(request: Request) -> tuple[GrammarState, ...]:
    """A grammar for each of a request's n sequences; none where it has no grammar."""
    if request.grammar is None:
        return ()
    return tuple(GrammarState(request.grammar) for _ in range(request.sampling.n))


def fill_bitmasks(
    grammars: Sequence[tuple[GrammarState | None, int]], vocab_size: int
) -> tuple[np.ndarray, dict[int, Exception]]:
    """Asks grammars, whose tokens have all been accepted, for what may come next.

    They are asked while the device computes a step, because only its sampling needs them.

    Args:
      grammars: one for each sequence of the step, and the number of its drafts; None allows all
        tokens.
      vocab_size: V.

    Returns:
      1 + drafts lines for each, [P, ceil(V / 32)] uint32, and what those raised that failed, by
      their index; their lines allow all tokens.
    """
    num_lines = sum(1 + num_drafts for _, num_drafts in grammars)
    bitmasks = np.full((num_lines, num_mask_words(vocab_size)), 0xFFFF_FFFF, np.uint32)
    failures: dict[int, Exception] = {}
    first = 0
    for index, (grammar, num_drafts) in enumerate(grammars):
        lines = bitmasks[first : first + 1 + num_drafts]
        first += len(lines)
        if grammar is not None:
            try:
                grammar.fill(lines)
            except Exception as error:  # whatever it is, it is this grammar's own
                lines[:] = 0xFFFF_FFFF
                failures[index] = error
    return bitmasks, failures


def num_mask_words(vocab_size: int) -> int:
    """How many uint32 hold a bit for each token."""
    return -(-vocab_size // 32)
