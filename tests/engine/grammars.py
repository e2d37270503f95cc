"""Grammars for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np


@dataclass
class Rule:
    """Allows what a function of the tokens so far allows, and takes only what it allowed.

    Args:
      allowed: from the output tokens to the ids that may come next.
      tokens: the output so far.
    """

    allowed: Callable[[list[int]], Iterable[int]]
    tokens: list[int] = field(default_factory=list)

    def fill_bitmask(self, bitmask: memoryview) -> None:
        words = np.asarray(bitmask)
        for token_id in self.allowed(self.tokens):
            words[token_id // 32] |= np.uint32(1 << (token_id % 32))

    def fork(self) -> Rule:
        return replace(self, tokens=list(self.tokens))

    def forced_tokens(self) -> list[int]:
        return []

    def accept_token(self, token_id: int) -> None:
        assert token_id in self.allowed(self.tokens), "a token that the grammar does not allow"
        self.tokens.append(token_id)
