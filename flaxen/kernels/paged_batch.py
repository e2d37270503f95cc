"""The batch of one step: the sequence of each token, and the pages of each sequence.

Attention and recurrences go through it. Deliberately does not know what lies in the pages.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int32


class PagedBatch(NamedTuple):
    """One step's ragged batch: T tokens of S sequences, both padded to the compiled shape.

    Sequence s owns the tokens cu_q_lens[s] to cu_q_lens[s+1]; they are the last of its kv_lens[s]
    tokens. A padding sequence has no tokens and a kv_len of 0; padding tokens come last.
    """

    kv_lens: Int32[Array, S]  # tokens of each sequence, including this step's
    page_table: Int32[Array, "S P"]  # page ids; entries beyond a sequence's pages are not read
    cu_q_lens: Int32[Array, S + 1]

    def token_sequences(self, num_tokens: int) -> Int32[Array, T]:
        """The sequence of each of the T tokens, [T]; padding tokens get the last one."""
        tokens = jnp.arange(num_tokens, dtype=jnp.int32)
        found = jnp.searchsorted(self.cu_q_lens[1:], tokens, side="right", method="compare_all")
        return jnp.minimum(found, self.kv_lens.shape[0] - 1)

    def token_positions(self, num_tokens: int) -> Int32[Array, T]:
        """The position of each of the T tokens in its sequence, [T]; -1 for padding."""
        tokens = jnp.arange(num_tokens, dtype=jnp.int32)
        sequences = self.token_sequences(num_tokens)
        from_end = self.cu_q_lens[sequences + 1] - tokens
        positions = self.kv_lens[sequences] - from_end
        return jnp.where(tokens < self.cu_q_lens[-1], positions, -1)
