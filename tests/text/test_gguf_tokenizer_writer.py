"""Tokenizers described in GGUF metadata: what is read back makes the same ids of every text."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from flaxen.text.gguf_tokenizer import read_gguf_tokenizer
from flaxen.text.gguf_tokenizer_writer import write_gguf_tokenizer
from flaxen.text.hf_tokenizer import read_directory
from flaxen.text.parts import TokenizerParts
from flaxen.text.pre_tokenizers import WORD_SPLITS
from flaxen.text.tokenizer import Tokenizer

TEMPLATE = "{% for m in messages %}{{ m.content }}<turn>{% endfor %}"
TEXTS = ("he said: heed the", "  he\n\nhe!  42", "é🙂 <eos> he<turn>\n", "")


def same(parts: TokenizerParts, vocab_size: int = 300) -> dict[str, Any]:
    """Asserts that a tokenizer comes back. Returns the metadata."""
    metadata = write_gguf_tokenizer(parts, vocab_size)
    ours, again = Tokenizer(parts), Tokenizer.from_gguf(metadata)
    for text in TEXTS:
        for added in (True, False):
            assert again.encode(text, added) == ours.encode(text, added)
    assert again.decode(again.encode(TEXTS[2]), False) == ours.decode(ours.encode(TEXTS[2]), False)
    assert again.eos_token_ids == ours.eos_token_ids
    assert again.bos_token_id == ours.bos_token_id
    assert again.chat_template == ours.chat_template
    assert again.named_templates == ours.named_templates
    assert again.special_token_ids == ours.special_token_ids
    assert len(metadata["tokenizer.ggml.tokens"]) == vocab_size
    return metadata


def backend(split: Any, **options: Any) -> tokenizers.Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*alphabet, "he", "\u0120he"])}
    merges = [("h", "e"), ("\u0120", "he")]
    made = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, **options))
    made.pre_tokenizer = split
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<bos>", "<eos>", "<turn>"])
    return made


def parts_of(made: tokenizers.Tokenizer, **fields: Any) -> TokenizerParts:
    given = {"bos_token_id": 258, "eos_token_ids": (259,), "chat_template": None} | fields
    return TokenizerParts(backend=made, **given)


@pytest.mark.parametrize("name", sorted(WORD_SPLITS))
def test_every_word_split_is_recognised(name: str) -> None:
    split = WORD_SPLITS[name]
    made = backend(split.build(), ignore_merges=split.ignore_merges)
    if split.nfc:
        made.normalizer = normalizers.NFC()
    found = WORD_SPLITS[same(parts_of(made))["tokenizer.ggml.pre"]]
    assert replace(found, add_bos=False) == replace(split, add_bos=False)


def test_a_split_is_recognised_by_what_it_does() -> None:
    """As SmolLM2's and GPT-2's own files spell it."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    sequence = pre_tokenizers.Sequence([digits, level])
    assert same(parts_of(backend(sequence)))["tokenizer.ggml.pre"] == "smollm"
    assert same(parts_of(backend(level)))["tokenizer.ggml.pre"] == "gpt-2"


@pytest.mark.parametrize(
    "change",
    [
        {"split": pre_tokenizers.ByteLevel(add_prefix_space=True)},
        {"split": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)},
        {"normalizer": normalizers.Lowercase()},
        {"ignore_merges": True},
    ],
)
def test_an_unknown_split_is_refused(change: dict[str, Any]) -> None:
    split = change.pop("split", pre_tokenizers.ByteLevel(add_prefix_space=False))
    normalizer = change.pop("normalizer", None)
    made = backend(split, **change)
    if normalizer is not None:
        made.normalizer = normalizer
    with pytest.raises(ValueError, match=r"no name in GGUF files \(tokenizer.ggml.pre\): known ar"):
        write_gguf_tokenizer(parts_of(made), 300)


def test_bos_eos_and_templates(save_tokenizer: Callable[..., Path]) -> None:
    path = save_tokenizer(
        tokenizer_config={
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<eos>",
            "chat_template": [
                {"name": "default", "template": TEMPLATE},
                {"name": "tool_use", "template": "{{ tools }}"},
            ],
        }
    )
    metadata = same(read_directory(path))
    assert metadata["tokenizer.ggml.eot_token_id"] == 259
    assert metadata["tokenizer.ggml.padding_token_id"] == 258
    assert metadata["tokenizer.ggml.add_bos_token"] is False
    assert metadata["tokenizer.chat_templates"] == ["tool_use"]


@pytest.mark.parametrize(
    ("before", "after"), [("<bos> ", ""), ("", " <eos>"), ("<bos> ", " <eos>")]
)
def test_tokens_around_a_text(before: str, after: str) -> None:
    made = backend(pre_tokenizers.ByteLevel(add_prefix_space=False))
    ids = [("<bos>", 258), ("<eos>", 259)]
    made.post_processor = processors.TemplateProcessing(f"{before}$A{after}", special_tokens=ids)
    metadata = same(parts_of(made))
    assert metadata["tokenizer.ggml.add_bos_token"] is bool(before)
    assert metadata["tokenizer.ggml.add_eos_token"] is bool(after)
    other = processors.TemplateProcessing("<turn> $A", special_tokens=[("<turn>", 260)])
    made.post_processor = other
    with pytest.raises(ValueError, match="puts other tokens than BOS and EOS around a text: it"):
        write_gguf_tokenizer(parts_of(made), 300)


def test_rows_without_a_token_and_tokens_without_a_row() -> None:
    made = backend(pre_tokenizers.ByteLevel(add_prefix_space=False))
    made.add_tokens(["<think>"])
    metadata = write_gguf_tokenizer(parts_of(made), 264)
    assert metadata["tokenizer.ggml.tokens"][260:] == ["<turn>", "<think>", "[PAD262]", "[PAD263]"]
    assert metadata["tokenizer.ggml.token_type"][256:] == [1, 1, 3, 3, 3, 4, 5, 5]
    with pytest.raises(ValueError, match=r"token '<think>' with id 261, and the model only 261"):
        write_gguf_tokenizer(parts_of(made), 261)


def test_more_ends_than_a_file_names(caplog: pytest.LogCaptureFixture) -> None:
    parts = parts_of(
        backend(pre_tokenizers.ByteLevel(add_prefix_space=False)), eos_token_ids=(259, 260, 1, 258)
    )
    with caplog.at_level(logging.WARNING):
        metadata = write_gguf_tokenizer(parts, 300)
    assert Tokenizer.from_gguf(metadata).eos_token_ids == (259, 260, 1)
    assert "three tokens that end an answer, and the model has more: <bos> end none" in caplog.text


def test_spaces_around_a_special_token(caplog: pytest.LogCaptureFixture) -> None:
    made = backend(pre_tokenizers.ByteLevel(add_prefix_space=False))
    made.add_special_tokens([tokenizers.AddedToken("<tool>", rstrip=True, special=True)])
    with caplog.at_level(logging.WARNING):
        write_gguf_tokenizer(parts_of(made), 300)
    assert "around the token <tool> a GGUF file reads spaces differently" in caplog.text


def test_sentencepiece_comes_back_from_its_merges(
    llama_metadata: dict[str, Any], tmp_path: Path
) -> None:
    """tokenizer.json has merges in place of the scores, whose order is kept."""
    for adds_space in (True, False):
        given = llama_metadata | {"tokenizer.ggml.add_space_prefix": adds_space}
        metadata = same(read_gguf_tokenizer(given), 270)
        assert metadata["tokenizer.ggml.add_space_prefix"] is adds_space
        assert metadata["tokenizer.ggml.token_type"] == given["tokenizer.ggml.token_type"]
        again, ours = Tokenizer.from_gguf(metadata), Tokenizer.from_gguf(given)
        for text in ("abc", "ab c", "aé", "a</s>c", "[TOOL] abc  c"):
            assert again.encode(text) == ours.encode(text)


def test_other_kinds_are_refused() -> None:
    made = tokenizers.Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    with pytest.raises(ValueError, match="is of the kind WordLevel, and only BPE can be"):
        write_gguf_tokenizer(parts_of(made), 300)
    state = json.loads(backend(pre_tokenizers.ByteLevel(add_prefix_space=False)).to_str())
    state["model"]["merges"] = []
    made = tokenizers.Tokenizer.from_str(json.dumps(state))
    with pytest.raises(ValueError, match="no merges, and a GGUF file can't hold an empty list of"):
        write_gguf_tokenizer(parts_of(made), 300)


@pytest.mark.slow
def test_smollm2s_own_metadata_comes_back(smollm2_metadata: dict[str, Any]) -> None:
    metadata = write_gguf_tokenizer(read_gguf_tokenizer(smollm2_metadata), 49152)
    left_out = {"tokenizer.ggml.add_space_prefix"}
    assert {
        k: v for k, v in smollm2_metadata.items() if k not in left_out
    }.items() <= metadata.items()
