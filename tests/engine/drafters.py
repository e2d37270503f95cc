"""Drafters for tests."""

from __future__ import annotations

import random
from collections.abc import Mapping
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field


@dataclass
class Knowing:
    """Knows how each prompt goes on, and guesses wrong as often as it is told to.

    Args:
      futures: by prompt, all tokens that come after it.
      wrong: the share of its tokens that are wrong.
      num_asked: how often it was asked.
    """

    futures: Mapping[tuple[int, ...], Ids[int]]
    vocab_size: int
    wrong: float = 0.0
    random: random.Random = field(default_factory=lambda: random.Random(0))
    num_asked: int = 0

    def propose(self, token_ids: Ids[int], num_spec_tokens: int) -> list[int]:
        self.num_asked += 1
        known = tuple(token_ids)
        prompt = next(p for p in self.futures if known[: len(p)] == p)
        future = list(self.futures[prompt][len(known) - len(prompt) :][:num_spec_tokens])
        for i, token_id in enumerate(future):
            if self.random.random() < self.wrong:
                future[i] = (token_id + 1 + self.random.randrange(5)) % self.vocab_size
        return future[: self.random.randint(0, len(future))] if self.wrong else future


@dataclass
class Scripted:
    """Proposes what a list holds, one entry a call, and then nothing."""

    proposals: list[list[int]]

    def propose(self, token_ids: Ids[int], num_spec_tokens: int) -> list[int]:
        return self.proposals.pop(0)[:num_spec_tokens] if self.proposals else []
