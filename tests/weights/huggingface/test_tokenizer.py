"""Tokenizers of GGUF files, written as Hugging Face's files, are the same tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from tokenizers import pre_tokenizers

from flaxen.hub.resolve import resolve
from flaxen.text.tokenizer import Tokenizer
from flaxen.weights.checkpoint import open_checkpoint
from flaxen.weights.gguf.reader import read_gguf
from flaxen.weights.huggingface.export import export_huggingface
from flaxen.weights.huggingface.tokenizer import write_tokenizer
from tests.weights.files import write_gguf

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
PIECES = {"\u2581": -9.0, "a": -9.0, "b": -9.0, "ab": -2.0, "\u2581a": -3.0, "\u2581ab": -4.0}
TEMPLATE = "{% for m in messages %}{{ m.content }}<turn>{% endfor %}"
BYTE_LEVEL: dict[str, Any] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": [*ALPHABET, "he", "<eos>", "<turn>"],
    "tokenizer.ggml.token_type": [1] * 257 + [3, 3],
    "tokenizer.ggml.merges": ["h e"],
    "tokenizer.ggml.eos_token_id": 257,
    "tokenizer.ggml.eot_token_id": 258,
    "tokenizer.chat_template": TEMPLATE,
}
SENTENCEPIECE: dict[str, Any] = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)),
                              *PIECES],
    "tokenizer.ggml.scores": [0.0] * 259 + list(PIECES.values()),
    "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(PIECES),
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
}  # fmt: skip
TEXTS = ("he said: heh", "abab b<turn>a</s>", "  zwei  Leerzeichen 🙂\n", "")


def both(tmp_path: Path, metadata: dict[str, Any]) -> tuple[Tokenizer, Tokenizer, dict[str, Any]]:
    """The file's tokenizer, that of the directory made of it, and what config.json gets."""
    whole = {"general.architecture": "llama", **metadata}
    path = write_gguf(tmp_path / "m.gguf", whole, {})
    out = tmp_path / "out"
    out.mkdir()
    fields = write_tokenizer(out, path)
    return Tokenizer.from_gguf(read_gguf(path).metadata), Tokenizer.from_directory(out), fields


def assert_same(one: Tokenizer, other: Tokenizer, texts: tuple[str, ...] = TEXTS) -> None:
    for text in texts:
        for special in (True, False):
            ids = one.encode(text, add_special_tokens=special)
            assert other.encode(text, add_special_tokens=special) == ids
            assert other.decode(ids, skip_special_tokens=special) == one.decode(ids, special)
    for name in ("bos_token_id", "eos_token_ids", "chat_template", "vocab_size",
                 "special_token_ids", "strips_leading_space"):  # fmt: skip
        assert getattr(other, name) == getattr(one, name), name


@pytest.mark.parametrize("metadata", [BYTE_LEVEL, SENTENCEPIECE], ids=["byte-level", "pieces"])
def test_both_kinds(tmp_path: Path, metadata: dict[str, Any]) -> None:
    assert_same(*both(tmp_path, metadata)[:2])


def test_what_goes_around_a_text(tmp_path: Path) -> None:
    asked = {
        **BYTE_LEVEL,
        "tokenizer.ggml.bos_token_id": 258,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": True,
    }
    gguf, written, _ = both(tmp_path, asked)
    assert written.encode("he") == [258, 256, 257]
    assert_same(gguf, written)


def test_what_the_configurations_say(tmp_path: Path) -> None:
    _, _, fields = both(tmp_path, BYTE_LEVEL)
    assert fields == {"bos_token_id": None, "eos_token_id": [257, 258]}
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config["eos_token"] == "<eos>"
    assert config["chat_template"] == TEMPLATE
    assert "bos_token" not in config
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation == fields


def test_a_file_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", {"general.architecture": "llama"}, {})
    with pytest.raises(ValueError, match=r"the GGUF file has no tokenizer\.ggml\.model"):
        write_tokenizer(tmp_path, path)


@pytest.mark.slow
def test_smollm2_as_a_hugging_face_directory(tmp_path: Path) -> None:
    path = resolve("smollm2-135m")
    source = open_checkpoint(path)
    bfloat16 = jnp.dtype("bfloat16")
    params = source.load_params(bfloat16)
    export_huggingface(tmp_path / "out", source.family, source.config, params, tokenizer_of=path)
    again = open_checkpoint(tmp_path / "out")
    assert (again.config, again.dtype) == (source.config, bfloat16)
    reloaded = again.load_params(bfloat16)
    assert bool((reloaded["embed"] == params["embed"]).all())
    for layer, other in zip(reloaded["layers"], params["layers"], strict=True):
        assert all(bool((layer[name] == other[name]).all()) for name in other)
    texts = ("Hello, wörld 123!\n<|im_start|>user\n 4  5🙂<|im_end|>", *TEXTS)
    assert_same(source.make_tokenizer(), again.make_tokenizer(), texts)


def test_named_templates_special_tokens_and_the_found_end_are_exported(tmp_path: Path) -> None:
    metadata = {
        **BYTE_LEVEL,
        "tokenizer.ggml.padding_token_id": 256,
        "tokenizer.chat_template.tool_use": "tools",
    }
    del metadata["tokenizer.ggml.eot_token_id"]  # it is found in the template
    gguf, written, _ = both(tmp_path, metadata)
    assert gguf.eos_token_ids == (257, 258)
    assert gguf.special_tokens == {"eos_token": "<eos>", "pad_token": "he"}
    assert written.special_tokens == gguf.special_tokens
    assert written.named_templates == gguf.named_templates == {"tool_use": "tools"}
    assert_same(gguf, written)

    source, again = tmp_path / "out", tmp_path / "again"  # and once more, from the directory
    (source / "generation_config.json").write_text('{"eos_token_id": 257, "top_k": 3}')
    (source / "chat_template.jinja").write_text(TEMPLATE)
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool_use.jinja").write_text("more tools")
    again.mkdir()
    write_tokenizer(again, source)
    generation = json.loads((again / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [257, 258], "top_k": 3}
    assert Tokenizer.from_directory(again).named_templates == {"tool_use": "more tools"}
