"""What a request may contain besides token ids: embeddings, a grammar, pooling.

Deliberately does not know: how any of it is computed. Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

# The vector of a prompt: the hidden state of its last or first token, or the mean over all tokens.
Pooling = Literal["last", "mean", "cls"]


class Grammar(Protocol):
    """Says which tokens may come next in one sequence, as the sequence goes on.

    It must not compute with JAX: the step waits for it, and XLA's CPU lets nothing pass the step.
    """

    def fill_bitmask(self, bitmask: memoryview) -> None:
        """Allows tokens: bit v % 32 of number v // 32 is token v's.

        Args:
          bitmask: ceil(V / 32) numbers of 32 bits (format "I"), all 0. `numpy.asarray` takes them
            without a copy.
        """

    def accept_token(self, token_id: int) -> None:
        """Takes the token that was sampled, which is one of those that were allowed.

        Raises:
          RuntimeError: the grammar can't be followed any further, which ends the sequence.
        """

    def fork(self) -> Grammar:
        """Another grammar at the same place, to look ahead with. Only called for drafts."""

    def forced_tokens(self) -> Sequence[int]:
        """The tokens that must come next, as far as the grammar knows them: they become drafts,
        which may be wrong. Only called where there are drafts.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbedSpan:
    """Embeddings in place of some of a prompt's tokens, for example from an image encoder.

    The prompt's ids at these positions are placeholders: any id of the vocabulary.
    """

    start: int  # position of the first
    values: Any  # [n, D] floats, an array of NumPy's
    # Identifies the content of the embeddings, for example by a hash of the image. Prompts share
    # cached pages if it is equal, so different contents must have different hashes.
    content_hash: bytes

    @property
    def end(self) -> int:
        """The position after the last embedding."""
        return self.start + len(self.values)
