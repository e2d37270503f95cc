"""Tokenizers from a Hugging Face directory, on a tiny tokenizer that each test writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders

from flaxen.text.tokenizer import Tokenizer

Save = Callable[..., Path]
BOS, EOS, TURN = 257, 258, 259


def test_round_trip(save_tokenizer: Save) -> None:
    tokenizer = Tokenizer.from_directory(save_tokenizer())
    for text in ("hello", " 中文 🦩\n", "e\u0301", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("he<turn>he") == [256, TURN, 256]
    assert tokenizer.decode([256, TURN]) == "he"
    assert tokenizer.decode([256, TURN], skip_special_tokens=False) == "he<turn>"
    assert tokenizer.vocab_size == 260
    assert tokenizer.special_token_ids == {BOS, EOS, TURN}
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.eos_token_ids) == (None, None, ())
    assert tokenizer.chat_template is None


def test_eos_ids_are_those_of_all_files(save_tokenizer: Save) -> None:
    path = save_tokenizer(
        tokenizer_config={"bos_token": "<bos>", "eos_token": {"content": "<eos>"}},
        generation_config={"eos_token_id": [TURN, EOS]},
        config={"eos_token_id": 7},
    )
    tokenizer = Tokenizer.from_directory(path)
    assert tokenizer.eos_token_ids == (EOS, TURN, 7)
    assert (tokenizer.eos_token, tokenizer.bos_token_id) == ("<eos>", BOS)


def test_special_tokens_map_names_tokens_too(save_tokenizer: Save) -> None:
    path = save_tokenizer(special_tokens_map={"eos_token": "<turn>", "bos_token": None})
    tokenizer = Tokenizer.from_directory(path)
    assert (tokenizer.eos_token_ids, tokenizer.bos_token_id) == ((TURN,), None)


@pytest.mark.parametrize(
    ("files", "template"),
    [
        ({"tokenizer_config": {"chat_template": "config"}}, "config"),
        ({"tokenizer_config": {"chat_template": "config"}, "chat_template": "file"}, "file"),
        (
            {
                "tokenizer_config": {
                    "chat_template": [
                        {"name": "tool_use", "template": "tools"},
                        {"name": "default", "template": "plain"},
                    ]
                }
            },
            "plain",
        ),
    ],
)
def test_where_the_chat_template_is(
    save_tokenizer: Save, files: dict[str, Any], template: str
) -> None:
    assert Tokenizer.from_directory(save_tokenizer(**files)).chat_template == template


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config": "{"}, "config.json is not valid JSON"),
        ({"config": [1]}, "config.json must hold a JSON object, got a list"),
        ({"config": {"eos_token_id": "2"}}, "eos_token_id in .* must be a token id .* got '2'"),
        ({"config": {"eos_token_id": [-1]}}, r"eos_token_id in .* must be .* got \[-1\]"),
        ({"tokenizer_config": {"eos_token": "<x>"}}, "eos_token '<x>' of .* is not in"),
        ({"tokenizer_config": {"chat_template": 1}}, "chat_template in .* got a int"),
        (
            {"tokenizer_config": {"chat_template": [{"name": "rag"}]}},
            r"chat_template in .* must list objects like .*, got \{'name': 'rag'\}",
        ),
        ({"tokenizer": "{"}, "tokenizer.json can't be read as a tokenizer"),
        ({"decoder": decoders.BPEDecoder()}, "decoder is BPEDecoder: only ByteLevel, Metaspace"),
        (
            {"decoder": decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()])},
            r"decoder is ByteLevel \+ Fuse: only",
        ),
    ],
)
def test_what_is_wrong_with_a_directory(
    save_tokenizer: Save, files: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_directory(save_tokenizer(**files))


def test_a_missing_tokenizer_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is not a directory"):
        Tokenizer.from_directory(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer.json; make tokenizer.json with"):
        Tokenizer.from_directory(tmp_path)
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(FileNotFoundError, match="SentencePiece files are not read here; make"):
        Tokenizer.from_directory(tmp_path)


@pytest.mark.parametrize(
    ("scheme", "text"), [("always", "he he"), ("first", "he he"), ("never", " he he")]
)
def test_metaspace_takes_off_the_space_that_its_encoder_puts(
    save_tokenizer: Save, scheme: str, text: str
) -> None:
    path = save_tokenizer(decoder=decoders.Metaspace(prepend_scheme=scheme))
    backend = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    backend.add_tokens(["\u2581he"])
    backend.save(str(path / "tokenizer.json"))
    tokenizer = Tokenizer.from_directory(path)
    assert tokenizer.decode([260, 260]) == text
    assert tokenizer.token_bytes(260) == b" he"
