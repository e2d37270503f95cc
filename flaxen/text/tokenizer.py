"""One tokenizer, whichever file it came from: text to ids, ids to text, ids to bytes.

A text is the tokens' bytes, joined and decoded as UTF-8; invalid bytes become U+FFFD. `decode` and
the incremental `Detokenizer` share that definition, so that streamed and whole text are equal.

Deliberately does not know: file formats (their readers make the `TokenizerParts`), chat, sampling.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import tokenizers

from flaxen.text.gguf_tokenizer import read_gguf_tokenizer
from flaxen.text.hf_tokenizer import read_directory
from flaxen.text.parts import TokenizerParts
from flaxen.text.token_bytes import spelling_of
from flaxen.text.turn_end import find_turn_end

Side = Literal["left", "right"]  # where a text that is too long is cut
_SHORT_TEXT = 2_000  # characters; takes a millisecond, less than a batch's overhead


class Tokenizer:
    """Final. Safe to share between threads: after construction only a cache changes."""

    def __init__(self, parts: TokenizerParts) -> None:
        backend = parts.backend
        # Whoever saved the file may have set truncation or padding; a prompt gets neither.
        backend.no_truncation()
        backend.no_padding()
        state = backend.decoder.__getstate__() if backend.decoder is not None else None
        spelling = spelling_of(state)
        added = backend.get_added_tokens_decoder()

        self._parts = parts
        self._backend = backend
        self._prefix = list(parts.prefix_ids)
        self._suffix = list(parts.suffix_ids)
        self._added = frozenset(added)
        self._spelling = spelling
        self._bytes: dict[int, bytes] = {}  # a cache; two threads may both compute the same entry

        self.bos_token_id = parts.bos_token_id
        self.eos_token_ids = parts.eos_token_ids
        self.chat_template = parts.chat_template
        self.named_templates = parts.named_templates
        self.special_tokens = parts.special_tokens  # by the names that chat templates use
        self.special_token_ids = frozenset(i for i, token in added.items() if token.special)
        # One more than the largest id; there may be a gap before the ids of added tokens.
        ids_end = backend.get_vocab_size(with_added_tokens=False)
        self.vocab_size = max([ids_end, *(i + 1 for i in added)])
        # The same without special tokens; a model may have no row for those that it never uses.
        self.text_vocab_size = max([ids_end, *(i + 1 for i, t in added.items() if not t.special)])
        self.strips_leading_space = spelling.strips_leading_space

    @classmethod
    def from_directory(cls, path: Path) -> Tokenizer:
        """Reads a Hugging Face directory: tokenizer.json, and the configurations beside it.

        Raises:
          FileNotFoundError: the directory or its tokenizer.json is missing; the message says what
              to do.
          ValueError: a file is corrupt, or we do not support this kind of tokenizer.
        """
        return cls(read_directory(path))

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, object]) -> Tokenizer:
        """Builds the tokenizer that a GGUF file describes in its `tokenizer.*` keys.

        Args:
          metadata: GGUF key -> str, int, float, bool, or a list of them.

        Raises:
          ValueError: a key is missing or wrong, or we do not support this kind of tokenizer.
        """
        return cls(read_gguf_tokenizer(metadata))

    def with_chat_template(self, template: str) -> Tokenizer:
        """Returns the tokenizer with another chat template, whose end of a turn also ends answers.

        The template replaces all of the model's templates, including one for tools.

        Args:
          template: Jinja, or the name of one of `named_templates`.
        """
        source = self.named_templates.get(template, template)
        turn_end = find_turn_end(self._backend, source, self.special_tokens)
        ids = self.eos_token_ids if turn_end is None else (*self.eos_token_ids, turn_end)
        return Tokenizer(
            replace(
                self._parts,
                chat_template=source,
                named_templates={},
                eos_token_ids=tuple(dict.fromkeys(ids)),
            )
        )

    @property
    def parts(self) -> TokenizerParts:
        """What the tokenizer was made of."""
        return self._parts

    @property
    def bos_token(self) -> str | None:
        """The text of `bos_token_id`."""
        return None if self.bos_token_id is None else self.token(self.bos_token_id)

    @property
    def eos_token(self) -> str | None:
        """The text of the first id in `eos_token_ids`."""
        return self.token(self.eos_token_ids[0]) if self.eos_token_ids else None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Tokenizes a text. Special tokens that are written out in it are recognised.

        Args:
          text: any text.
          add_special_tokens: put BOS and EOS around the text if the model asks for them. A text
              from a chat template already has them: pass False.

        Raises:
          ValueError: the text is not valid Unicode.
        """
        ids = self._encoding(text, add_special_tokens).ids
        return self._prefix + ids + self._suffix if add_special_tokens else ids

    def encode_within(
        self,
        text: str,
        max_tokens: int,
        add_special_tokens: bool = True,
        side: Side = "right",
    ) -> list[int]:
        """Like `encode`, with the text's last tokens left out if there are more than `max_tokens`;
        or its first ones, if `side` is left.

        The special tokens around it stay, as far as they fit.
        """
        ids = self.encode(text, add_special_tokens)
        if len(ids) <= max_tokens:
            return ids
        if not add_special_tokens:
            return ids[:max_tokens] if side == "right" else ids[len(ids) - max_tokens :]
        around = len(self._prefix) + len(self._suffix)
        around += self._backend.num_special_tokens_to_add(is_pair=False)
        encoding = self._encoding(text, False)
        encoding.truncate(max(0, max_tokens - around), direction=side)
        cut = self._backend.post_process(encoding).ids
        return (self._prefix + cut + self._suffix)[:max_tokens]

    def cut(self, text: str, max_tokens: int) -> str:
        """The beginning of a text that its first `max_tokens` tokens are of."""
        offsets = self.offsets(text, add_special_tokens=False)
        return text if len(offsets) <= max_tokens else text[: offsets[max_tokens - 1][1]]

    def offsets(self, text: str, add_special_tokens: bool = True) -> list[tuple[int, int]]:
        """Where each token of `encode` begins and ends in the text, in characters. Tokens that are
        added are empty: those before it at 0, those behind it at the end.
        """
        found = list(self._encoding(text, add_special_tokens, with_offsets=True).offsets)
        if not add_special_tokens:
            return found
        end = (len(text), len(text))
        return [(0, 0)] * len(self._prefix) + found + [end] * len(self._suffix)

    def encode_pair(
        self, first: str, second: str, max_tokens: int | None = None, side: Side = "right"
    ) -> tuple[list[int], list[int]]:
        """Tokenizes a pair of texts as one input, as a cross-encoder reads it.

        Args:
          first: one text.
          second: the other one.
          max_tokens: leaves out tokens of the longer text if there are more; None for no limit.
          side: which of them: "right" is the last ones, "left" the first.

        Returns:
          The ids and, for each, its type: 0 or 1.
        """
        one, other = (self._encoding(text, False) for text in (first, second))
        if max_tokens is not None:
            around = self._backend.num_special_tokens_to_add(is_pair=True)
            lengths = _cut_longest(len(one), len(other), max(0, max_tokens - around))
            for encoding, length in zip((one, other), lengths, strict=True):
                encoding.truncate(length, direction=side)
        both = self._backend.post_process(one, other)
        return both.ids[:max_tokens], both.type_ids[:max_tokens]

    def _encoding(
        self, text: str, add_special_tokens: bool, *, with_offsets: bool = False
    ) -> tokenizers.Encoding:
        try:
            if len(text) <= _SHORT_TEXT:
                return self._backend.encode(text, add_special_tokens=add_special_tokens)
            # A batch of one text: unlike `encode`, this call lets Python's other threads run. A
            # text of megabytes takes seconds, and `encode` would stop a whole server for that time.
            encode = self._backend.encode_batch if with_offsets else self._backend.encode_batch_fast
            [encoding] = encode([text], add_special_tokens=add_special_tokens)
            return encoding
        except TypeError as exc:
            # For a str that can't be encoded as UTF-8 the library's error is "must be str".
            position = next((i for i, c in enumerate(text) if "\ud800" <= c <= "\udfff"), None)
            if position is None:
                raise
            raise ValueError(
                f"the text is not valid Unicode: it holds half of a surrogate pair "
                f"({text[position]!a}) at character {position}; send the whole pair or leave it out"
            ) from exc

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of ids. An id without a token (in a padded vocabulary) adds nothing."""
        skipped = self.special_token_ids if skip_special_tokens else frozenset()
        data = b"".join([self.token_bytes(i) for i in ids if i not in skipped])
        if self.strips_leading_space:
            data = data.removeprefix(b" ")
        return data.decode("utf-8", "replace")

    def token(self, token_id: int) -> str:
        """The text of one token alone, with its leading space; "" if no token has the id."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def spelling(self, token_id: int) -> str:
        """The token as the vocabulary writes it, such as "Ġthe" or "▁the"; "" if no token has
        the id.
        """
        return self._backend.id_to_token(token_id) or ""

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes of one token, perhaps half a character; b"" if no token has the id."""
        try:
            return self._bytes[token_id]
        except KeyError:
            pass
        token = self._backend.id_to_token(token_id) if token_id >= 0 else None
        if token is None:
            return b""  # not cached: a caller could fill the cache with ids that do not exist
        added = token_id in self._added
        spell = self._spelling.added_to_bytes if added else self._spelling.to_bytes
        self._bytes[token_id] = spell(token)
        return self._bytes[token_id]


def _cut_longest(first: int, second: int, room: int) -> tuple[int, int]:
    """The lengths of two texts after tokens were taken from the longer one until both fit."""
    if first + second <= room:
        return first, second
    least = room // 2
    if first <= least:
        return first, room - first
    if second <= least:
        return room - second, second
    # Equal lengths; where the room is odd, the text that was longer has one more.
    return (room - least, least) if first > second else (least, room - least)
