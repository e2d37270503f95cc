"""A small tokenizer for models of few rows: shared by the tests of exports."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

TEMPLATE = "{% for m in messages %}{{ m.content }}<turn>{% endfor %}"
TEXT = "the heat, and The end<turn> he<eos>"


def write_small_tokenizer(directory: Path) -> Path:
    """Writes a byte-level tokenizer of fewer than 128 tokens, without most bytes. Returns the
    directory.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:100]
    vocab = {token: i for i, token in enumerate([*alphabet, "\u0120", "he", "the", "\u0120he"])}
    merges = [("h", "e"), ("t", "he"), ("\u0120", "he")]
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<eos>", "<turn>"])
    backend.add_tokens(["heat"])
    backend.save(str(directory / "tokenizer.json"))
    config = {"eos_token": "<eos>", "chat_template": TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory
