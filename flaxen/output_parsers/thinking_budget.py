"""A grammar that ends a model's reasoning after a number of tokens.

Deliberately does not know: formats of reasoning, how masks are applied.
"""

from __future__ import annotations

import copy
from array import array
from collections.abc import Callable, Sequence
from typing import final

from flaxen.protocol import Grammar

_WORD = 32  # bits of a number of a bitmask


@final
class ThinkingBudget:
    """Allows what another grammar allows, and makes the end of the reasoning come in time.

    Args:
      inner: the grammar of the whole output; None allows all tokens.
      budget: how many tokens the reasoning may have, its end not counted.
      begin: the marker that opens the reasoning; "" if the prompt has opened it.
      end: the marker that closes it.
      end_ids: the tokens of `end`, which are made to come where the budget is used up.
      token_bytes: the bytes of a token.
    """

    def __init__(
        self,
        inner: Grammar | None,
        *,
        budget: int,
        begin: str,
        end: str,
        end_ids: Sequence[int],
        token_bytes: Callable[[int], bytes],
    ) -> None:
        self._inner, self._left = inner, budget
        self._begin, self._end = begin.encode(), end.encode()
        self._end_ids, self._token_bytes = end_ids, token_bytes
        self._num_forced = 0
        self._is_open, self._is_over = not begin, False
        self._tail = b""  # of the text, as long as a marker needs it

    @property
    def _is_forced(self) -> bool:
        return self._is_open and not self._is_over and self._left <= 0

    def fill_bitmask(self, bitmask: memoryview) -> None:
        """Allows tokens, as `protocol.Grammar` says."""
        if self._is_forced:
            token_id = self._end_ids[self._num_forced]
            bitmask[token_id // _WORD] = 1 << token_id % _WORD
        elif self._inner is not None:
            self._inner.fill_bitmask(bitmask)
        else:
            bitmask[:] = memoryview(array("I", [2**_WORD - 1]) * len(bitmask))

    def accept_token(self, token_id: int) -> None:
        """Takes the token that was sampled."""
        if self._inner is not None:
            self._inner.accept_token(token_id)
        if self._is_forced:
            self._num_forced += 1
            self._is_over = self._num_forced == len(self._end_ids)
        elif not self._is_over:
            self._look_for_marker(self._token_bytes(token_id))

    def fork(self) -> ThinkingBudget:
        """Another one at the same place."""
        twin = copy.copy(self)
        twin._inner = None if self._inner is None else self._inner.fork()
        return twin

    def forced_tokens(self) -> Sequence[int]:
        """The tokens that must come next."""
        if self._is_forced:
            return self._end_ids[self._num_forced :]
        return () if self._inner is None else self._inner.forced_tokens()

    def _look_for_marker(self, data: bytes) -> None:
        self._tail += data
        if self._is_open:
            self._left -= 1
            self._is_over = self._end in self._tail
            self._tail = self._tail[-len(self._end) :]
            return
        text = self._tail.lstrip()
        if text.startswith(self._begin):
            self._is_open, self._tail = True, text[len(self._begin) :]
        elif not self._begin.startswith(text):
            self._is_over = True  # the answer begins without reasoning
