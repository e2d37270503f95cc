"""Output tokens to text, one at a time: whole characters, and stop strings.

Deliberately does not know: the engine, stop tokens, or what the text is for.
"""

from __future__ import annotations

import codecs
import copy
from collections.abc import Collection, Sequence

from flaxen.text.tokenizer import Tokenizer


class Detokenizer:
    """The text of one output sequence as it grows. Final. One thread at a time.

    What `push` returns is final: never half a character, and never what may still become part of a
    stop string. All that it and `flush` returned, joined, is `Tokenizer.decode` of the output
    tokens, cut at the stop string. Each token costs time for its own text only.

    Stop strings are looked for in the text with its special tokens, also where those are left out
    of what is returned: "<|im_end|>" as a stop string means that token. What is returned holds no
    stop string either (decision 0180).

    Args:
      tokenizer: the model's.
      prompt_token_ids: what the output continues. Its text only decides whether the output's
        leading space is one that the tokenizer put there.
      skip_special_tokens: leave special tokens out of the text.
      stop: strings that end the text. The one completed first does; of those completed by the same
        character, the longest.
      include_stop_str: keep the stop string at the end of the text, its special tokens too.
      min_tokens: a stop string completed before this many tokens were pushed is plain text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_token_ids: Sequence[int],
        *,
        skip_special_tokens: bool,
        stop: tuple[str, ...],
        include_stop_str: bool,
        min_tokens: int,
    ) -> None:
        if "" in stop:
            raise ValueError("a stop string is empty, which every text holds: leave it out")
        hidden = tokenizer.special_token_ids if skip_special_tokens else frozenset[int]()
        self.stopped: str | None = None  # the stop string that ended the text

        self._token_bytes = tokenizer.token_bytes
        self._hidden = hidden
        self._strip_space = strips_space(tokenizer, prompt_token_ids, hidden)
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._stops = [_StopString(text) for text in sorted(set(stop), key=len, reverse=True)]
        # The same for the text without hidden tokens: none until there is such a token.
        self._shown_stops: list[_StopString] = []
        self._include_stop_str = include_stop_str
        self._min_tokens = min_tokens
        self._num_tokens = 0
        # Characters that may become part of a stop string: what each shows, "" if it is hidden.
        self._held: list[str] = []

    def push(self, token_id: int, *, is_hidden: bool = False) -> str:
        """The text that this token makes certain. Not to be called once `stopped` is set.

        Args:
          token_id: the next token.
          is_hidden: leave its text out, as a special token's; it may complete a stop string.
        """
        assert self.stopped is None, f"the text ended at the stop string {self.stopped!r}"
        self._num_tokens += 1
        data = self._token_bytes(token_id)
        if is_hidden or token_id in self._hidden:
            if self._stops and not self._shown_stops:
                self._shown_stops = [copy.copy(stop) for stop in self._stops]
            return self._release(data.decode("utf-8", "replace"), False) if self._stops else ""
        if self._strip_space and data:
            self._strip_space = False
            data = data.removeprefix(b" ")
        text = self._decode(data)
        return self._release(text, True) if self._stops else text

    def flush(self) -> str:
        """What was held back: call it when no more tokens come. "" after a stop string."""
        if self.stopped is not None:
            return ""
        text = self._decode(b"", True)  # half a character that nothing will complete: U+FFFD
        text = self._release(text, True) if self._stops else text
        held, self._held = self._held, []
        return text + "".join(held)

    def _release(self, new: str, is_shown: bool) -> str:
        """`new` joins the held text; returns what of both can't become part of a stop string."""
        text = self._held
        for char in new:
            text.append(char if is_shown else "")
            stop = _advance(self._stops, char)
            num_cut = len(stop)
            if is_shown and self._shown_stops:
                shown_stop = _advance(self._shown_stops, char)
                if len(shown_stop) > len(stop):
                    stop, num_cut = shown_stop, _num_last(text, len(shown_stop))
            if stop and self._num_tokens >= self._min_tokens:
                self.stopped, self._held = stop, []
                before = "".join(text[: len(text) - num_cut])
                return before + stop if self._include_stop_str else before
        num_held = max(stop.num_matched for stop in self._stops)
        if self._shown_stops:
            num_matched = max(stop.num_matched for stop in self._shown_stops)
            num_held = max(num_held, _num_last(text, num_matched))
        self._held = text[len(text) - num_held :]
        return "".join(text[: len(text) - num_held])


def _advance(stops: list[_StopString], char: str) -> str:
    """Gives each stop string one more character; returns the longest that it completes, or ""."""
    completed = ""
    for stop in stops:
        if stop.advance(char) and not completed:
            completed = stop.text  # the longest come first
    return completed


def _num_last(text: list[str], num_shown: int) -> int:
    """How many of the last characters hold `num_shown` that are shown."""
    num_last = 0
    while num_shown:
        num_last += 1
        num_shown -= text[-num_last] != ""
    return num_last


def strips_space(
    tokenizer: Tokenizer, prompt_token_ids: Sequence[int], hidden: Collection[int]
) -> bool:
    """Whether the output's leading space is one that the tokenizer put there.

    Args:
      tokenizer: the model's.
      prompt_token_ids: what the output continues.
      hidden: tokens that are left out of the text.
    """
    return tokenizer.strips_leading_space and not any(
        i not in hidden and tokenizer.token_bytes(i) for i in prompt_token_ids
    )


class _StopString:
    """How much of a stop string the text ends with, by Knuth, Morris and Pratt's algorithm."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.num_matched = 0  # the longest proper prefix of `text` that the text so far ends with
        # borders[n]: the longest proper prefix of text[:n] that text[:n] also ends with.
        self._borders = [0, 0]
        for char in text[1:]:
            self._borders.append(self._next(self._borders[-1], char))

    def advance(self, char: str) -> bool:
        """Takes one more character; true if it completes the stop string."""
        n = self._next(self.num_matched, char)
        completed = n == len(self.text)
        self.num_matched = self._borders[n] if completed else n
        return completed

    def _next(self, n: int, char: str) -> int:
        while n and self.text[n] != char:
            n = self._borders[n]
        return n + (self.text[n] == char)
