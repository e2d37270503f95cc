"""Output tokens to text, one at a time: whole characters, and stop strings.

Deliberately does not know: the engine, stop tokens, or what the text is for.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from flaxen.text.tokenizer import Tokenizer


class Detokenizer:
    """The text of one output sequence as it grows. Final. One thread at a time.

    What `push` returns is final: never half a character, and never what may still become part of a
    stop string. All that it and `flush` returned, joined, is `Tokenizer.decode` of the output
    tokens, cut at the stop string. Each token costs time for its own text only.

    Args:
      tokenizer: the model's.
      prompt_token_ids: what the output continues. Its text only decides whether the output's
        leading space is one that the tokenizer put there.
      skip_special_tokens: leave special tokens out of the text.
      stop: strings that end the text. The one completed first does; of those completed by the same
        character, the longest.
      include_stop_str: keep the stop string at the end of the text.
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
        skipped = tokenizer.special_token_ids if skip_special_tokens else frozenset[int]()
        prompt_has_text = any(
            i not in skipped and tokenizer.token_bytes(i) for i in prompt_token_ids
        )
        self.stopped: str | None = None  # the stop string that ended the text

        self._token_bytes = tokenizer.token_bytes
        self._skipped = skipped
        self._strip_space = tokenizer.strips_leading_space and not prompt_has_text
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._stops = [_StopString(text) for text in sorted(set(stop), key=len, reverse=True)]
        self._include_stop_str = include_stop_str
        self._min_tokens = min_tokens
        self._num_tokens = 0
        self._held = ""  # text that may become part of a stop string

    def push(self, token_id: int) -> str:
        """The text that this token makes certain. Not to be called once `stopped` is set."""
        assert self.stopped is None, f"the text ended at the stop string {self.stopped!r}"
        self._num_tokens += 1
        if token_id in self._skipped:
            return ""
        data = self._token_bytes(token_id)
        if self._strip_space and data:
            self._strip_space = False
            data = data.removeprefix(b" ")
        text = self._decode(data)
        return self._release(text) if self._stops else text

    def flush(self) -> str:
        """What was held back: call it when no more tokens come. "" after a stop string."""
        if self.stopped is not None:
            return ""
        text = self._decode(b"", True)  # half a character that nothing will complete: U+FFFD
        text = self._release(text) if self._stops else text
        held, self._held = self._held, ""
        return text + held

    def _release(self, new: str) -> str:
        """`new` joins the held text; returns what of both can't become part of a stop string."""
        text = self._held + new
        may_stop = self._num_tokens >= self._min_tokens
        for end, char in enumerate(new, start=len(self._held) + 1):
            for stop in self._stops:
                if stop.advance(char) and may_stop and self.stopped is None:
                    self.stopped = stop.text
            if self.stopped is not None:
                self._held = ""
                return text[: end if self._include_stop_str else end - len(self.stopped)]
        num_held = max(stop.num_matched for stop in self._stops)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]


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
