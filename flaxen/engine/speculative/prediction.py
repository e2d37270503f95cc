"""Predicted outputs: drafts from a text that an answer is expected to follow, for the most part.

Deliberately does not know: steps, when drafts pay, who predicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Ids
from dataclasses import dataclass
from typing import final

from flaxen.engine.speculative.drafter import Drafter
from flaxen.scheduling.sequence import Sequence

_MATCH = 3  # last tokens of an answer that are looked for in its prediction
_NEAR_MATCH, _NEAR = 2, 32  # fewer are enough so many tokens behind where it was left


@final
class Predicted(Drafter):
    """Proposes what the predictions of sequences say, and where they say nothing, what another
    drafter does.

    It counts in `Sequence.num_predicted_right` and `num_predicted_wrong` the drafts of a sequence
    that came from its prediction, and were accepted or rejected by a step.

    Args:
      drafter: one that only reads.
    """

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter
        self._followed: dict[Sequence, _Followed] = {}

    def propose(self, wanted: Mapping[Sequence, int]) -> Mapping[Sequence, Ids[int]]:
        predicted = {s: ids for s, most in wanted.items() if (ids := self._continuation(s, most))}
        return {
            **self._drafter.propose({s: n for s, n in wanted.items() if s not in predicted}),
            **predicted,
        }

    def verified(self, sequence: Sequence, num_drafts: int, num_accepted: int) -> None:
        followed = self._followed.get(sequence)
        if followed is None or num_drafts == 0:
            return
        # A grammar may have forced others in their place.
        if sequence.draft_token_ids[:num_drafts] == followed.proposed[:num_drafts]:
            sequence.num_predicted_right += num_accepted
            sequence.num_predicted_wrong += num_drafts - num_accepted
        followed.proposed = ()

    def end(self, sequence: Sequence) -> None:
        self._followed.pop(sequence, None)
        self._drafter.end(sequence)

    def _continuation(self, sequence: Sequence, most: int) -> Ids[int]:
        if not sequence.prediction:
            return ()
        followed = self._followed.get(sequence)
        if followed is None:
            text = _as_text(sequence.prediction)
            followed = self._followed[sequence] = _Followed(text, sequence.num_prompt_tokens)
        followed.follow(sequence.tokens, sequence.num_prompt_tokens)
        followed.proposed = followed.next_tokens(most)
        return followed.proposed


@dataclass(slots=True)
class _Followed:
    """A prediction, and how far the answer has followed it."""

    text: str
    num_read: int  # tokens of the sequence
    at: int = 0  # the place in the prediction of the answer's next token, or of the last one found
    is_lost: bool = False  # whether the answer has left the prediction
    proposed: tuple[int, ...] = ()

    def follow(self, tokens: Ids[int], num_prompt_tokens: int) -> None:
        """Reads what is new of the sequence's tokens."""
        for token in _as_text(tokens[self.num_read :]):
            self.is_lost = self.is_lost or self.text[self.at : self.at + 1] != token
            self.at += not self.is_lost
        self.num_read = len(tokens)
        if self.is_lost:
            self._find(_as_text(tokens[max(num_prompt_tokens, len(tokens) - _MATCH) :]))

    def next_tokens(self, most: int) -> tuple[int, ...]:
        """What follows; nothing where the answer has left the prediction."""
        return () if self.is_lost else tuple(map(ord, self.text[self.at : self.at + most]))

    def _find(self, tail: str) -> None:
        """Looks for the answer's last tokens: behind where it was left, anywhere, and fewer of them
        a few tokens behind where it was left.
        """
        places = (_MATCH, self.at, None), (_MATCH, 0, None), (_NEAR_MATCH, self.at, self.at + _NEAR)
        for size, start, end in places:
            found = self.text.find(tail[-size:], start, end) if len(tail) >= size else -1
            if found >= 0:
                self.at, self.is_lost = found + size, False
                return


def _as_text(token_ids: Ids[int]) -> str:
    """A character for each token: texts are searched fast. There are 1,114,112 characters."""
    return "".join(map(chr, token_ids))
