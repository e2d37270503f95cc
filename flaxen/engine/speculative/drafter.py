"""What proposes draft tokens. Deliberately does not know: how they are verified, JAX."""

from __future__ import annotations

from collections.abc import Sequence as Ids
from typing import Protocol


class Drafter(Protocol):
    """Guesses how sequences go on. Whatever it guesses, the output is that of plain decoding."""

    def propose(self, token_ids: Ids[int], num_spec_tokens: int) -> Ids[int]:
        """The tokens that may come next.

        Args:
          token_ids: all known tokens of one sequence; must not be changed.
          num_spec_tokens: the most that may be proposed.

        Returns:
          At most so many; none is a plain step for this sequence.
        """


def propose(
    drafter: Drafter, token_ids: Ids[int], num_spec_tokens: int, vocab_size: int
) -> tuple[int, ...]:
    """A drafter's proposal, checked.

    Raises:
      ValueError: it proposed too many tokens, or one that the model does not have.
    """
    proposed = tuple(drafter.propose(token_ids, num_spec_tokens))
    if len(proposed) > num_spec_tokens:
        raise ValueError(
            f"the drafter proposed {len(proposed)} tokens, and num_spec_tokens is {num_spec_tokens}"
        )
    for token_id in proposed:
        if not 0 <= token_id < vocab_size:
            raise ValueError(
                f"the drafter proposed the token id {token_id}, outside the vocabulary of "
                f"{vocab_size} tokens"
            )
    return proposed
