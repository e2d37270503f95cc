"""Drafters for tests, and what lets all their drafts be verified."""

from __future__ import annotations

import abc
import random
from collections.abc import Mapping
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field

from flaxen.engine.speculative.drafter import Drafter
from flaxen.engine.speculative.payoff import Offer, Payoff
from flaxen.scheduling.sequence import Sequence


class Always(Payoff):
    """Takes all drafts that there is room for."""

    def choose(self, offers: Ids[Offer], num_running: int, spare: int) -> list[int]:
        numbers = []
        for offer in offers:
            numbers.append(min(offer.most, spare))
            spare -= numbers[-1]
        return numbers


class Reader(Drafter):
    """A drafter that only reads the tokens of one sequence at a time."""

    has_ended = False

    @abc.abstractmethod
    def after(self, token_ids: Ids[int], most: int) -> Ids[int]:
        """What it proposes."""

    def propose(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, Ids[int]]:
        return {each: self.after(each.tokens, most) for each, most in wanted.items()}

    def end(self, sequence: Sequence) -> None:
        self.has_ended = True


@dataclass
class Knowing(Reader):
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

    def after(self, token_ids: Ids[int], num_spec_tokens: int) -> list[int]:
        self.num_asked += 1
        known = tuple(token_ids)
        prompt = next(p for p in self.futures if known[: len(p)] == p)
        future = list(self.futures[prompt][len(known) - len(prompt) :][:num_spec_tokens])
        for i, token_id in enumerate(future):
            if self.random.random() < self.wrong:
                future[i] = (token_id + 1 + self.random.randrange(5)) % self.vocab_size
        return future[: self.random.randint(0, len(future))] if self.wrong else future


@dataclass
class Scripted(Reader):
    """Proposes what is held for a last token, and else nothing."""

    proposals: Mapping[int, list[int]]

    def after(self, token_ids: Ids[int], num_spec_tokens: int) -> list[int]:
        return self.proposals.get(token_ids[-1], [])[:num_spec_tokens]


class Constant(Reader):
    """Proposes the same tokens, whatever came before."""

    def __init__(self, *token_ids: int) -> None:
        self._token_ids = token_ids

    def after(self, token_ids: Ids[int], most: int) -> Ids[int]:
        return self._token_ids[:most]
