"""Turns output tokens into text one at a time, in whole characters, and finds stop strings.

Deliberately does not know: the engine, stop tokens, or the use of the text.
"""

from __future__ import annotations

import codecs
import copy
from collections.abc import Collection, Sequence

from flaxen.text.tokenizer import Tokenizer


class Detokenizer:
    """The text of one output sequence as it grows. Final. One thread at a time.

    What `push` returns is final: never half a character, and never text that may still become part
    of a stop string. Everything that `push` and `flush` returned, joined, equals `Tokenizer.decode`
    of the output tokens, cut at the stop string. The cost of a token depends on its own text only.

    Stop strings are searched for in the text with its special tokens, even if these are left out of
    the returned text: "<|im_end|>" as a stop string means that token. The returned text contains no
    stop string either (decision 0180).

    Args:
      tokenizer: the model's tokenizer.
      prompt_token_ids: the prompt. It only decides whether the tokenizer added the output's leading
          space.
      skip_special_tokens: leave special tokens out of the text.
      stop: strings that end the text. The first completed one ends it; of several completed by the
          same character, the longest.
      include_stop_str: keep the stop string at the end of the text, its special tokens too.
      min_tokens: until this many tokens were pushed, a completed stop string is ordinary text.
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
        # The same for the text without hidden tokens; empty until there is a hidden token.
        self._shown_stops: list[_StopString] = []
        self._include_stop_str = include_stop_str
        self._min_tokens = min_tokens
        self._num_tokens = 0
        # Held characters, which may become part of a stop string; "" in place of a hidden one.
        self._held: list[str] = []

    def push(self, token_id: int, *, is_hidden: bool = False) -> str:
        """Returns the text that becomes final with this token. Must not be called after `stopped`.

        Args:
          token_id: the next token.
          is_hidden: leave the token's text out, e.g. because it is special; it may complete a stop
              string.
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
        """Returns the text held back: call it after the last token. "" after a stop string."""
        if self.stopped is not None:
            return ""
        text = self._decode(b"", True)  # half a character, never completed, becomes U+FFFD
        text = self._release(text, True) if self._stops else text
        held, self._held = self._held, []
        return text + "".join(held)

    def _release(self, new: str, is_shown: bool) -> str:
        """Adds `new` to the held text; returns the part that can't become part of a stop string."""
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
    """Advances each stop string by one character; returns the longest completed one, or ""."""
    completed = ""
    for stop in stops:
        if stop.advance(char) and not completed:
            completed = stop.text  # the longest are first in the list
    return completed


def _num_last(text: list[str], num_shown: int) -> int:
    """How many characters from the end contain `num_shown` visible ones."""
    num_last = 0
    while num_shown:
        num_last += 1
        num_shown -= text[-num_last] != ""
    return num_last


def strips_space(
    tokenizer: Tokenizer, prompt_token_ids: Sequence[int], hidden: Collection[int]
) -> bool:
    """Whether the tokenizer added the output's leading space, so that decoding removes it.

    Args:
      tokenizer: the model's tokenizer.
      prompt_token_ids: the prompt.
      hidden: tokens that are left out of the text.
    """
    return tokenizer.strips_leading_space and not any(
        i not in hidden and tokenizer.token_bytes(i) for i in prompt_token_ids
    )


class _StopString:
    """Tracks how much of a stop string the text ends with (Knuth-Morris-Pratt algorithm)."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.num_matched = 0  # the longest proper prefix of `text` that the text so far ends with
        # borders[n]: the longest proper prefix of text[:n] that text[:n] also ends with.
        self._borders = [0, 0]
        for char in text[1:]:
            self._borders.append(self._next(self._borders[-1], char))

    def advance(self, char: str) -> bool:
        """Advances by one character; True if it completes the stop string."""
        n = self._next(self.num_matched, char)
        completed = n == len(self.text)
        self.num_matched = self._borders[n] if completed else n
        return completed

    def _next(self, n: int, char: str) -> int:
        while n and self.text[n] != char:
            n = self._borders[n]
        return n + (self.text[n] == char)
