"""Models of few rows with small tokenizers: shared by the tests of exports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from tests.weights.files import Kind, copy_golden, golden_metadata, golden_tensors, write_gguf

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


@pytest.fixture
def golden(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a directory of a golden that has a tokenizer."""

    def make(case: str) -> Path:
        directory = tmp_path / case
        directory.mkdir()
        return write_small_tokenizer(copy_golden(case, directory))

    return make


def quantized_golden(path: Path, case: str = "llama_default") -> Path:
    """Writes a GGUF file with blocks of several types, and a tokenizer. Returns it."""
    metadata = golden_metadata(case) | {"general.license": "mit", "general.file_type": 2}
    metadata |= {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [chr(i) for i in range(33, 127)] + ["ab"]
        + [f"[PAD{i}]" for i in range(33)],
        "tokenizer.ggml.token_type": [1] * 95 + [5] * 33, "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": 3, "tokenizer.chat_template": "{{ messages }}",
    }  # fmt: skip
    kinds = {"token_embd.weight": Kind.Q8_0, "blk.0.attn_q.weight": Kind.Q4_0,
             "blk.0.attn_k.weight": Kind.Q5_1, "blk.1.ffn_up.weight": Kind.Q4_1}  # fmt: skip
    return write_gguf(path, metadata, golden_tensors(case), kinds)
