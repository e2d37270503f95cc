"""Where each token begins in its text. Deliberately does not know logprobs or requests."""

from __future__ import annotations

import codecs

from flaxen.text.tokenizer import Tokenizer


class TextOffsets:
    """Counts the characters before each token of one text, as the tokens come. Final.

    A character that is spelled by several tokens begins with the first of them: the others have the
    same offset, that of the character that they are part of.

    Args:
      tokenizer: the model's.
      strips_space: the text lacks the leading space of its first token (detokenize.strips_space).
      start: the characters before the first token.
    """

    def __init__(self, tokenizer: Tokenizer, *, strips_space: bool, start: int = 0) -> None:
        self.num_characters = start  # whole ones, so far
        self._token_bytes = tokenizer.token_bytes
        self._strips_space = strips_space
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int, *, is_hidden: bool = False) -> int:
        """The offset of the next token.

        Args:
          token_id: the token.
          is_hidden: the text leaves it out; it has no characters.
        """
        data = b"" if is_hidden else self._token_bytes(token_id)
        if self._strips_space and data:
            self._strips_space = False
            data = data.removeprefix(b" ")
        offset = self.num_characters
        if self._is_in_character:
            # Either this token goes on with the character, or it shows that nothing completes it:
            # then the bytes before it are a character of their own, U+FFFD.
            found = len(self._decoder.decode(data[:1]))
            self.num_characters += found
            offset += found == 2 or (found == 1 and self._is_in_character)
            data = data[1:]
        self.num_characters += len(self._decoder.decode(data))
        return offset

    @property
    def _is_in_character(self) -> bool:
        return bool(self._decoder.getstate()[0])
