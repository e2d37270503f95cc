"""Which sequences have draft tokens for their next step.

Deliberately does not know: how drafts are made or verified, which of them a step has room for.
"""

from __future__ import annotations

from collections.abc import Iterable

from flaxen.engine.sequence import Sequence
from flaxen.engine.speculative.drafter import Drafter, propose


class Drafts:
    """Asks the drafter, and keeps what it proposed until a step is planned with it.

    Args:
      drafter: None proposes nothing.
      num_spec_tokens: draft tokens of a sequence, at most.
      vocab_size: of the model.

    Raises:
      ValueError: a drafter, and no token that it may propose.
    """

    def __init__(self, drafter: Drafter | None, num_spec_tokens: int, vocab_size: int) -> None:
        if drafter is not None and num_spec_tokens == 0:
            raise ValueError(
                "a drafter was given, and num_spec_tokens is 0: set it to at least 1, or give none"
            )
        self.counts: dict[Sequence, int] = {}  # tokens in each one's draft_token_ids
        self._drafter = drafter
        self._num_spec_tokens, self._vocab_size = num_spec_tokens, vocab_size

    @property
    def is_on(self) -> bool:
        """Whether there is a drafter: then its sequences wait until it knows their tokens."""
        return self._drafter is not None

    def propose(self, sequence: Sequence) -> None:
        """Asks how a sequence goes on, all of whose tokens have reached the host.

        Raises:
          ValueError: what was proposed can't be verified.
          Exception: what the drafter raises.
        """
        if self._drafter is None or sequence.grammar is not None:
            return  # what a grammar allows after a draft, only the draft could tell
        sequence.draft_token_ids = propose(
            self._drafter, sequence.tokens, self._num_spec_tokens, self._vocab_size
        )
        if sequence.draft_token_ids:
            self.counts[sequence] = len(sequence.draft_token_ids)

    def drop(self, sequences: Iterable[Sequence]) -> None:
        """Drafts of these are not wanted any more."""
        if self.counts:
            for sequence in sequences:
                self.counts.pop(sequence, None)
