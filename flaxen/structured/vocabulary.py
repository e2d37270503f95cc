"""A model's tokens as the matcher reads them, made once for each tokenizer.

Deliberately does not know: grammars, JSON.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from typing import final

import llguidance
import numpy as np
import numpy.typing as npt

from flaxen.text.tokenizer import Tokenizer

# Tokens of letters alone, which a matcher allows at once where a terminal takes any of them. They
# are a quarter of a vocabulary, and llguidance's own sets begin with longer lists of characters.
_LETTERS = "[A-Za-z]+"

Bitmask = npt.NDArray[np.uint32]  # [ceil(V / 32)]: bit v % 32 of number v // 32 is token v's


@final
class Vocabulary:
    """The bytes of each token, and sets of tokens as bitmasks. Safe to share between threads.

    Args:
      tokenizer: the model's tokenizer.
      vocab_size: V, the model's, which may be larger or smaller than the tokenizer's.
      eos_token_ids: the tokens that end a sequence.

    Raises:
      ValueError: no token ends a sequence, so that no output could end where its grammar does.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        if not eos_token_ids:
            raise ValueError(
                "structured outputs need a token that ends a sequence, and this model names none: "
                "set eos_token_id in its generation_config.json"
            )
        self._tokens = [tokenizer.token_bytes(i) for i in range(vocab_size)]
        special = tokenizer.special_token_ids | frozenset(eos_token_ids)
        self._special = {
            self._tokens[i].decode("utf-8", "replace"): i
            for i in sorted(special)
            if i < vocab_size and self._tokens[i]
        }
        source = _Source(tokenizer, self._tokens, sorted(self._special.values()), eos_token_ids[0])
        self.for_matchers = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(source),
            n_vocab=vocab_size,
            eos_token=list(eos_token_ids),
            slices=[_LETTERS, *llguidance.LLTokenizer.general_slices()],
        )
        self.num_words = -(-vocab_size // 32)  # of a bitmask

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes of a token."""
        return self._tokens[token_id]

    @functools.lru_cache(maxsize=64)  # noqa: B019  # a vocabulary lives as long as its model
    def beginning_with(self, characters: bytes) -> Bitmask:
        """The tokens whose first byte is one of these."""
        bits = np.zeros(self.num_words * 32, bool)
        bits[: len(self._tokens)] = [token[:1] in _singles(characters) for token in self._tokens]
        return np.packbits(bits, bitorder="little").view(np.uint32)

    def literal(self, text: str) -> str:
        """A text in Lark's notation, in which the special tokens that occur are those tokens."""
        if not text:
            return ""
        special = sorted(self._special, key=len, reverse=True)
        parts = re.split(f"({'|'.join(map(re.escape, special))})", text) if special else [text]
        return " ".join(
            f"<[{self._special[part]}]>"
            if part in self._special
            else json.dumps(part, ensure_ascii=False)
            for part in parts
            if part
        )


def _singles(characters: bytes) -> frozenset[bytes]:
    return frozenset(bytes([each]) for each in characters)


@final
class _Source:
    """A tokenizer as `llguidance.TokenizerWrapper` asks for it."""

    def __init__(
        self, tokenizer: Tokenizer, tokens: list[bytes], special: list[int], eos_token_id: int
    ) -> None:
        self.tokens, self.special_token_ids = tokens, special
        self.eos_token_id, self.bos_token_id = eos_token_id, tokenizer.bos_token_id
        self._tokenizer = tokenizer
        texts = [re.escape(tokens[i].decode("utf-8", "replace")) for i in special]
        self._special = re.compile("|".join(texts)) if texts else None

    def __call__(self, text: bytes) -> list[int]:
        """The ids of a text in which the spelling of a special token is text like any other."""
        ids: list[int] = []
        for part in self._split(text.decode("utf-8", "replace")):
            ids += self._tokenizer.encode(part, add_special_tokens=False)
        return ids

    def _split(self, text: str) -> list[str]:
        """The parts of a text, none of which has the whole spelling of a special token."""
        if self._special is None:
            return [text]
        parts, begin = [], 0
        for found in self._special.finditer(text):
            parts.append(text[begin : found.start() + 1])
            begin = found.start() + 1
        return [*parts, text[begin:]]
