"""Pools the hidden states of a prompt's tokens into one vector, chunk by chunk.

Deliberately does not know: how hidden states are computed, when steps are planned, JAX.
"""

from __future__ import annotations

from typing import final

import numpy as np

from flaxen.protocol import Pooling


@final
class Pooler:
    """Pools the hidden states of one sequence.

    Sums are taken token by token, so that a prompt in chunks gets the bits of a whole one.

    Args:
      pooling: of the request.
    """

    def __init__(self, pooling: Pooling) -> None:
        self._pooling = pooling
        self.reset()

    def reset(self) -> None:
        """Starts again from the first token, for example after preemption."""
        self._kept: np.ndarray | None = None  # one hidden state, or the sum of all so far
        self._num_tokens = 0

    def add(self, hidden: np.ndarray) -> None:
        """Adds the hidden states of the next tokens, [n, D] float32."""
        is_first = self._num_tokens == 0
        self._num_tokens += len(hidden)
        if self._pooling == "last":
            self._kept = hidden[-1]
            return
        if self._pooling == "cls":
            self._kept = hidden[0] if is_first else self._kept
            return
        rows = hidden if self._kept is None else np.concatenate([self._kept[None], hidden])
        self._kept = np.add.accumulate(rows, axis=0, dtype=np.float32)[-1]

    def vector(self) -> np.ndarray:
        """The vector of all tokens so far, [D] float32."""
        assert self._kept is not None, "no token has been pooled"
        divisor = self._num_tokens if self._pooling == "mean" else 1
        return self._kept / np.float32(divisor)
