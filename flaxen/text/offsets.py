"""Finds where each token begins in its text. Deliberately does not know logprobs or requests."""

from __future__ import annotations

import codecs

from flaxen.text.tokenizer import Tokenizer


class TextOffsets:
    """Counts the characters before each token of one text, as the tokens come. Final.

    If several tokens make up one character, all have that character's offset.

    Args:
      tokenizer: the model's tokenizer.
      strips_space: the text lacks the leading space of its first token (detokenize.strips_space).
      start: the characters before the first token.
    """

    def __init__(self, tokenizer: Tokenizer, *, strips_space: bool, start: int = 0) -> None:
        self.num_characters = start  # complete characters so far
        self._token_bytes = tokenizer.token_bytes
        self._strips_space = strips_space
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int, *, is_hidden: bool = False) -> int:
        """Returns the offset of the next token.

        Args:
          token_id: the token.
          is_hidden: the text leaves the token out, so that it has no characters.
        """
        data = b"" if is_hidden else self._token_bytes(token_id)
        if self._strips_space and data:
            self._strips_space = False
            data = data.removeprefix(b" ")
        offset = self.num_characters
        if self._is_in_character:
            # Either this token continues the character, or it shows that the character is never
            # completed: then the bytes before it become a character of their own, U+FFFD.
            found = self._complete(data[:1])
            self.num_characters += found
            offset += found == 2 or (found == 1 and self._is_in_character)
            data = data[1:]
        self.num_characters += self._complete(data)
        return offset

    def _complete(self, data: bytes) -> int:
        """Reads bytes. Returns the number of characters that they complete."""
        text = self._decoder.decode(data)
        left, _ = self._decoder.getstate()
        if len(left) == 2 and left[0] == 0xED and left[1] >= 0xA0:
            # Half of a surrogate pair: Python's decoder waits for its last byte, and refuses it
            # then. Each of the bytes is a character of its own, U+FFFD.
            text += self._decoder.decode(b"", True)
        return len(text)

    @property
    def _is_in_character(self) -> bool:
        return bool(self._decoder.getstate()[0])
