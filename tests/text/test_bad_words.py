"""Bad words as token sequences."""

from __future__ import annotations

import pytest
import tokenizers
from tokenizers import decoders, models

from flaxen.text.bad_words import bad_word_ids
from flaxen.text.parts import TokenizerParts
from flaxen.text.tokenizer import Tokenizer


def test_each_word_with_and_without_a_space(smollm2: Tokenizer) -> None:
    sequences = bad_word_ids(smollm2, ["hello", " hello", "\n"])
    texts = [smollm2.decode(ids) for ids in sequences]
    assert texts == ["hello", " hello", "\n"]
    assert sequences[0] == tuple(smollm2.encode("hello"))
    assert bad_word_ids(smollm2, []) == ()


def test_a_word_without_tokens_is_refused() -> None:
    backend = tokenizers.Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    backend.decoder = decoders.ByteLevel()
    tokenizer = Tokenizer(
        TokenizerParts(backend=backend, bos_token_id=None, eos_token_ids=(), chat_template=None)
    )
    with pytest.raises(ValueError, match="the bad word 'x' has no tokens in this vocabulary"):
        bad_word_ids(tokenizer, ["a", "x"])


def test_a_special_tokens_text_is_that_token(smollm2: Tokenizer) -> None:
    [alone, *others] = bad_word_ids(smollm2, ["<|im_start|>"])
    assert alone == (1,)
    assert smollm2.token(1) == "<|im_start|>"
    assert all(ids[-1] == 1 for ids in others)
