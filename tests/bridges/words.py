"""A tokenizer of one token a byte."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from flaxen.text.tokenizer import Tokenizer

VOCAB_SIZE = 272  # 256 bytes, the end, and some that are never used


@functools.cache
def byte_tokenizer() -> Tokenizer:
    vocab = {token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<eos>"])
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        backend.save(str(directory / "tokenizer.json"))
        (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>"}))
        return Tokenizer.from_directory(directory)
