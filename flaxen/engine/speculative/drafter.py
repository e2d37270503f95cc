"""The interface of drafters, which propose draft tokens. Does not know verification or JAX."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from collections.abc import Sequence as Ids

from flaxen.scheduling.sequence import Sequence


class Drafter(abc.ABC):
    """Proposes continuations of sequences. The output is that of plain decoding, whatever it
    proposes. One that only reads tokens, so that asking costs next to nothing, needs `propose` and
    `end` alone.
    """

    only_reads = True
    # The seconds that each token took in the last call of `propose`; 0 if it only reads, or if
    # something else took time too.
    token_s = 0.0

    @abc.abstractmethod
    def propose(self, wanted: Mapping[Sequence, int]) -> Mapping[Sequence, Ids[int]]:
        """Proposes the next tokens of sequences.

        Args:
          wanted: the most tokens for each. Their known tokens must not be changed, and only grow
            from one call to the next.

        Returns:
          At most so many tokens for each; a sequence with none may be missing.
        """

    @abc.abstractmethod
    def end(self, sequence: Sequence) -> None:
        """The sequence has ended: what is kept of it is dropped. Any sequence may be given."""

    def verified(self, sequence: Sequence, num_drafts: int, num_accepted: int) -> None:  # noqa: B027
        """A step has verified the first drafts of `Sequence.draft_token_ids`."""

    def warm_up(self) -> bool:
        """Compiles one more program, as in Executor.warm_up."""
        return False

    def sleep(self) -> None:  # noqa: B027  # most keep nothing on a device
        """Frees the memory of its state, and moves weights to the host, as in Executor.sleep."""

    def free(self) -> None:  # noqa: B027
        """Frees all that it has on a device: it has failed, and nobody will ask it again."""

    def wake(self) -> None:  # noqa: B027
        """Undoes `sleep`."""


def check_proposal(proposed: Ids[int], most: int, vocab_size: int) -> tuple[int, ...]:
    """Checks what a drafter proposed for a sequence.

    Raises:
      ValueError: it proposed more than `most` tokens, or an invalid token id.
    """
    if len(proposed) > most:
        raise ValueError(f"the drafter proposed {len(proposed)} tokens, and was asked for {most}")
    for token_id in proposed:
        if not 0 <= token_id < vocab_size:
            raise ValueError(
                f"the drafter proposed the token id {token_id}, outside the vocabulary of "
                f"{vocab_size} tokens"
            )
    return tuple(proposed)
