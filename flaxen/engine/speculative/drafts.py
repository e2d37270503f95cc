"""The draft tokens of sequences for their next step.

Deliberately does not know: how drafts are made or verified, or how many fit into a step.
"""

from __future__ import annotations

from collections.abc import Iterable

from flaxen.engine.speculative.drafter import Drafter, propose
from flaxen.scheduling.sequence import Sequence


class Drafts:
    """Asks the drafter, and keeps its proposals until a step is planned with them.

    Args:
      drafter: None proposes nothing.
      num_spec_tokens: the most draft tokens of a sequence.
      vocab_size: the model's vocabulary size.

    Raises:
      ValueError: there is a drafter, but num_spec_tokens is 0.
    """

    def __init__(self, drafter: Drafter | None, num_spec_tokens: int, vocab_size: int) -> None:
        if drafter is not None and num_spec_tokens == 0:
            raise ValueError(
                "a drafter was given, but num_spec_tokens is 0: set it to at least 1, or give no "
                "drafter"
            )
        self.counts: dict[Sequence, int] = {}  # the number of draft tokens of each sequence
        self._drafter = drafter
        self._num_spec_tokens, self._vocab_size = num_spec_tokens, vocab_size

    @property
    def is_on(self) -> bool:
        """Whether there is a drafter; then a sequence waits until all its tokens have reached the
        host.
        """
        return self._drafter is not None

    def propose(self, sequence: Sequence) -> None:
        """Asks the drafter about a sequence whose tokens have all reached the host.

        Raises:
          ValueError: the proposal is invalid.
          Exception: what the drafter raises.
        """
        if self._drafter is None or sequence.grammar is not None:
            return  # a grammar's mask after a draft would depend on the draft
        sequence.draft_token_ids = propose(
            self._drafter, sequence.tokens, self._num_spec_tokens, self._vocab_size
        )
        if sequence.draft_token_ids:
            self.counts[sequence] = len(sequence.draft_token_ids)

    def drop(self, sequences: Iterable[Sequence]) -> None:
        """Removes the drafts of these sequences."""
        if self.counts:
            for sequence in sequences:
                self.counts.pop(sequence, None)
