"""The interface of drafters, which propose draft tokens. Does not know verification or JAX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Drafter(Protocol):
    """Proposes continuations of sequences. The output is that of plain decoding, whatever it
    proposes.
    """

    def propose(self, token_ids: Sequence[int], num_spec_tokens: int) -> Sequence[int]:
        """Proposes the next tokens of a sequence.

        Args:
          token_ids: all known tokens of the sequence; must not be changed.
          num_spec_tokens: the most that may be proposed.

        Returns:
          At most `num_spec_tokens` tokens; with none, the sequence decodes plainly.
        """


def propose(
    drafter: Drafter, token_ids: Sequence[int], num_spec_tokens: int, vocab_size: int
) -> tuple[int, ...]:
    """Asks a drafter and checks its proposal.

    Raises:
      ValueError: the drafter proposed too many tokens, or an invalid token id.
    """
    proposed = tuple(drafter.propose(token_ids, num_spec_tokens))
    if len(proposed) > num_spec_tokens:
        raise ValueError(
            f"the drafter proposed {len(proposed)} tokens, but num_spec_tokens is {num_spec_tokens}"
        )
    for token_id in proposed:
        if not 0 <= token_id < vocab_size:
            raise ValueError(
                f"the drafter proposed the token id {token_id}, outside the vocabulary of "
                f"{vocab_size} tokens"
            )
    return proposed
