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


def save_tokenizer(directory: Path) -> None:
    """Writes tokenizer.json and what goes with it."""
    vocab = {token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<eos>"])
    backend.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>"}))


@functools.cache
def byte_tokenizer() -> Tokenizer:
    with tempfile.TemporaryDirectory() as name:
        save_tokenizer(Path(name))
        return Tokenizer.from_directory(Path(name))
