"""Tokenizers from GGUF metadata: SmolLM2's real one, and both kinds by hand."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from flaxen.text.gguf_tokenizer import read_gguf_tokenizer
from flaxen.text.tokenizer import Tokenizer

# Of prompt 22 the ids come from transformers' GGUF reader, which ignores tokenizer.ggml.pre and
# cuts as GPT-2 does: "\n\n   4" into "\n\n  " and " 4". SmolLM2's own tokenizer, which the file's
# "smollm" stands for, cuts digits off first, and leaves "\n\n   " whole.
CUT_AS_GPT2 = 22


@pytest.fixture(scope="module")
def smollm2_backend(smollm2_metadata: dict[str, Any]) -> tokenizers.Tokenizer:
    return read_gguf_tokenizer(smollm2_metadata).backend


def test_smollm2_prompts_have_the_ids_of_transformers(
    smollm2: Tokenizer, smollm2_texts: list[dict[str, Any]]
) -> None:
    wrong = [
        item["id"]
        for item in smollm2_texts
        if smollm2.encode(item["prompt_text"]) != item["prompt_token_ids"]
    ]
    assert wrong == [CUT_AS_GPT2]


def test_smollm2_cut_as_gpt2_has_the_ids_of_all_prompts(
    smollm2_metadata: dict[str, Any], smollm2_texts: list[dict[str, Any]]
) -> None:
    gpt2 = Tokenizer.from_gguf(smollm2_metadata | {"tokenizer.ggml.pre": "gpt-2"})
    for item in smollm2_texts:
        assert gpt2.encode(item["prompt_text"]) == item["prompt_token_ids"]


def test_smollm2_cuts_digits_off_before_words(smollm2: Tokenizer) -> None:
    tokens = [smollm2.token(i) for i in smollm2.encode("\n\n   42 cats")]
    assert tokens == ["\n\n   ", "4", "2", " cats"]


def test_smollm2_outputs_decode_as_in_transformers(
    smollm2: Tokenizer, smollm2_texts: list[dict[str, Any]]
) -> None:
    for item in smollm2_texts:
        ids = item["output_token_ids"]
        assert smollm2.decode(ids, skip_special_tokens=False) == item["output_text"]
        shown = re.sub(r"<\|im_(start|end)\|>", "", item["output_text"])
        assert smollm2.decode(ids) == shown


def test_smollm2_special_tokens(smollm2: Tokenizer) -> None:
    assert smollm2.vocab_size == 49152
    assert (smollm2.bos_token_id, smollm2.bos_token) == (1, "<|im_start|>")
    assert (smollm2.eos_token_ids, smollm2.eos_token) == ((2,), "<|im_end|>")
    assert smollm2.special_token_ids == frozenset(range(17))
    assert smollm2.chat_template is not None
    assert "<|im_start|>" in smollm2.chat_template
    assert smollm2.encode("<|im_start|>user") == [1, *smollm2.encode("user")]


@given(ids=st.lists(st.integers(0, 49200), max_size=30), skip=st.booleans())
def test_decode_is_that_of_the_tokenizers_library(
    smollm2_backend: tokenizers.Tokenizer, smollm2: Tokenizer, ids: list[int], skip: bool
) -> None:
    theirs = smollm2_backend.decode(ids, skip_special_tokens=skip)
    assert smollm2.decode(ids, skip) == theirs


def test_bytes_of_half_a_character_are_exact(smollm2: Tokenizer) -> None:
    ids = smollm2.encode("🦩")
    pieces = [smollm2.token_bytes(i) for i in ids]
    assert len(pieces) > 1
    assert b"".join(pieces) == "🦩".encode()
    assert smollm2.token(ids[0]) == "\ufffd"


def test_ids_without_a_token_are_nothing(smollm2: Tokenizer) -> None:
    for token_id in (-1, 49152, 10**9):
        assert smollm2.token_bytes(token_id) == b""
        assert smollm2.token(token_id) == ""
    assert smollm2.decode([49152, *smollm2.encode("hi"), -1]) == "hi"


def test_threads_share_a_tokenizer(
    smollm2_metadata: dict[str, Any], smollm2_texts: list[dict[str, Any]]
) -> None:
    tokenizer = Tokenizer.from_gguf(smollm2_metadata)
    texts = [item["prompt_text"] for item in smollm2_texts] * 4
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda text: tokenizer.decode(tokenizer.encode(text), False), texts))
    assert found == texts


def test_half_a_surrogate_pair_is_refused(smollm2: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"half of a surrogate pair \('\\ud83d'\) at character 2"):
        smollm2.encode("hi\ud83d")


def test_bos_and_eos_go_around_a_text_where_the_file_says(byte_metadata: dict[str, Any]) -> None:
    tokenizer = Tokenizer.from_gguf(
        byte_metadata
        | {
            "tokenizer.ggml.bos_token_id": 259,
            "tokenizer.ggml.add_bos_token": True,
            "tokenizer.ggml.add_eos_token": True,
        }
    )
    assert tokenizer.encode("he he") == [259, 256, 257, 258]
    assert tokenizer.encode("he he", add_special_tokens=False) == [256, 257]
    assert Tokenizer.from_gguf(byte_metadata).encode("he he") == [256, 257]


def test_the_word_cut_decides_on_bos_where_the_file_does_not(byte_metadata: dict[str, Any]) -> None:
    metadata = byte_metadata | {
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.bos_token_id": 259,
    }
    assert Tokenizer.from_gguf(metadata).encode("he") == [259, 256]
    no_bos = metadata | {"tokenizer.ggml.add_bos_token": False}
    assert Tokenizer.from_gguf(no_bos).encode("he") == [256]


def test_eos_ids_are_eos_turn_end_and_message_end(byte_metadata: dict[str, Any]) -> None:
    ends = {"tokenizer.ggml.eot_token_id": 259, "tokenizer.ggml.eom_token_id": 7}
    assert Tokenizer.from_gguf(byte_metadata | ends).eos_token_ids == (258, 259, 7)
    same = {"tokenizer.ggml.eot_token_id": 258}
    assert Tokenizer.from_gguf(byte_metadata | same).eos_token_ids == (258,)


def test_a_turn_end_in_the_chat_template_is_an_eos(byte_metadata: dict[str, Any]) -> None:
    tokens = [*byte_metadata["tokenizer.ggml.tokens"][:-1], "<|im_end|>"]
    metadata = byte_metadata | {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.chat_template": "{{ messages }}<|im_end|>",
    }
    assert Tokenizer.from_gguf(metadata).eos_token_ids == (258, 259)
    plain = metadata | {"tokenizer.chat_template": "{{ messages }}"}
    assert Tokenizer.from_gguf(plain).eos_token_ids == (258,)


def test_sentencepiece_joins_the_best_scored_pair_first(llama_metadata: dict[str, Any]) -> None:
    tokenizer = Tokenizer.from_gguf(llama_metadata)
    tokens = llama_metadata["tokenizer.ggml.tokens"]

    def pieces(text: str) -> list[str]:
        return [tokens[i] for i in tokenizer.encode(text)]

    # "bc" (-1) is joined before "ab" (-2), and then "▁a" (-3).
    assert pieces("abc") == ["<s>", "\u2581a", "bc"]
    assert pieces("ab c") == ["<s>", "\u2581ab", "\u2581c"]
    # No piece: the bytes of the character.
    assert pieces("aé") == ["<s>", "\u2581a", "<0xC3>", "<0xA9>"]
    # A special token begins a new text, which has a space put before it again.
    assert pieces("a</s>c") == ["<s>", "\u2581a", "</s>", "\u2581c"]
    assert pieces("a[TOOL]") == ["<s>", "\u2581a", "[TOOL]"]


def test_sentencepiece_decodes_what_it_encoded(llama_metadata: dict[str, Any]) -> None:
    tokenizer = Tokenizer.from_gguf(llama_metadata)
    for text in ("abc", " ab  c", "aé中🦩", "", " "):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.token_bytes(tokenizer.encode("é", False)[-1]) == b"\xa9"
    assert tokenizer.special_token_ids == {0, 1, 2}
    assert tokenizer.decode(tokenizer.encode("a[TOOL]")) == "a[TOOL]"


def test_sentencepiece_without_space_prefix(llama_metadata: dict[str, Any]) -> None:
    metadata = llama_metadata | {
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.ggml.add_bos_token": False,
    }
    tokenizer = Tokenizer.from_gguf(metadata)
    tokens = metadata["tokenizer.ggml.tokens"]
    assert [tokens[i] for i in tokenizer.encode("ab ab")] == ["ab", "\u2581ab"]
    assert tokenizer.decode(tokenizer.encode(" ab")) == " ab"


TEXT = "I'LL pay 12345 HelloWorld!\n\n  x"
CUTS = {
    "gpt-2": ["I", "'", "LL", " pay", " 12345", " HelloWorld", "!", "\n\n ", " x"],
    "smollm": ["I", "'", "LL", " pay", " ", *"12345", " HelloWorld", "!", "\n\n ", " x"],
    "default": ["I", "'", "LL", " pay", " ", "123", "45", " HelloWorld", "!", "\n\n ", " x"],
    "llama-bpe": ["I", "'LL", " pay", " ", "123", "45", " HelloWorld", "!\n\n", " ", " x"],
    "dbrx": ["I", "'LL", " pay", " ", "123", "45", " HelloWorld", "!\n\n", " ", " x"],
    "qwen2": ["I", "'LL", " pay", " ", *"12345", " HelloWorld", "!\n\n", " ", " x"],
    "deepseek-v3": ["I", "'LL", " pay", " ", "123", "45", " HelloWorld", "!\n\n", " ", " x"],
    "tekken": ["I", "'LL", " pay", " ", *"12345", " Hello", "World", "!\n\n", " ", " x"],
    "gpt-4o": ["I'LL", " pay", " ", "123", "45", " Hello", "World", "!\n\n", " ", " x"],
}


@pytest.mark.parametrize("name", CUTS)
def test_words_are_cut_as_the_file_says(byte_metadata: dict[str, Any], name: str) -> None:
    # With every wanted word in the vocabulary, and merges that build it from the left, a word that
    # is cut as wanted is one token.
    words = list(dict.fromkeys(CUTS[name]))
    alphabet = byte_metadata["tokenizer.ggml.tokens"][:256]
    spelled = [word.replace(" ", "\u0120").replace("\n", "\u010a") for word in words]
    prefixes = {w[:n] for w in spelled for n in range(2, len(w) + 1)}
    metadata = byte_metadata | {
        "tokenizer.ggml.pre": name,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.tokens": [*alphabet, *sorted(prefixes), "<eos>"],
        "tokenizer.ggml.token_type": [1] * (256 + len(prefixes)) + [3],
        "tokenizer.ggml.merges": [f"{p[:-1]} {p[-1]}" for p in sorted(prefixes, key=len)],
        "tokenizer.ggml.eos_token_id": 256 + len(prefixes),
    }
    tokenizer = Tokenizer.from_gguf(metadata)
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    assert [tokenizer.token(i) for i in ids] == CUTS[name]


def test_qwen2_composes_characters(byte_metadata: dict[str, Any]) -> None:
    tokenizer = Tokenizer.from_gguf(byte_metadata | {"tokenizer.ggml.pre": "qwen2"})
    assert tokenizer.decode(tokenizer.encode("e\u0301")) == "\u00e9"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "bert"}, r"tokenizer.ggml.model is 'bert': only 'gpt2' .* and 'llama'"),
        ({"model": None}, "has no tokenizer.ggml.model"),
        ({"tokens": None}, "has no tokenizer.ggml.tokens"),
        ({"tokens": ["a", 1]}, "tokenizer.ggml.tokens must hold only str, got 1"),
        ({"token_type": [1]}, "token_type has 1 entries for 260 tokens"),
        ({"pre": None}, "has no tokenizer.ggml.pre, .* convert the model again"),
        ({"pre": "kimi-k2"}, "is 'kimi-k2', .* not supported: .*Supported: default, gpt-2"),
        ({"merges": ["he"]}, "must hold pairs 'left right', got 'he'"),
        ({"merges": ["h zz"]}, "tokens and merges do not fit together: .*zz.* out of vocabulary"),
        ({"merges": None}, "has no tokenizer.ggml.merges"),
        ({"eos_token_id": 260}, "eos_token_id is 260, outside the vocabulary of 260 tokens"),
        ({"eos_token_id": "2"}, "eos_token_id must be of type int, got '2'"),
        ({"eos_token_id": True}, "eos_token_id must be of type int, got True"),
        ({"add_bos_token": True}, "asks for a BOS token .* no tokenizer.ggml.bos_token_id"),
    ],
)
def test_what_is_wrong_with_a_byte_level_file(
    byte_metadata: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    metadata = byte_metadata | {f"tokenizer.ggml.{key}": value for key, value in change.items()}
    metadata = {key: value for key, value in metadata.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_gguf(metadata)


def test_sentencepiece_needs_a_score_for_each_token(llama_metadata: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="scores has 1 entries for 270 tokens"):
        Tokenizer.from_gguf(llama_metadata | {"tokenizer.ggml.scores": [0.0]})


@pytest.mark.parametrize("num_repeats", [1, 200])
def test_long_texts_have_the_ids_of_short_ones(smollm2: Tokenizer, num_repeats: int) -> None:
    """Long texts go through another function of the library, which does not block other threads."""
    turn = "<|im_start|>user\nWhere is 🦩 in 中国?<|im_end|>\n"
    ids = smollm2.encode(turn)
    assert smollm2.encode(turn * num_repeats) == ids * num_repeats
    with pytest.raises(ValueError, match=f"half of a surrogate pair .* at character {num_repeats}"):
        smollm2.encode("a" * num_repeats + "\ud800" + "b" * 2_000)
