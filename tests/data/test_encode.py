"""Which tokens a record becomes, and which of them are learned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from flaxen.data.encode import Encoder, TokenSequence, cut
from flaxen.data.records import Text, parse_record
from flaxen.text.tokenizer import Tokenizer
from tests.data.tiny_text import TEMPLATE, TOKENIZER, chat, learned, make_tokenizer, text_of


@pytest.fixture(scope="module")
def encoder() -> Iterator[Encoder]:
    encoder = Encoder(TOKENIZER)
    yield encoder
    encoder.close()


def shown(encoder: Encoder, value: Any) -> list[tuple[str, str]]:
    sequences = encoder.encode(parse_record(value, "auto"))
    return [(text_of(each.tokens), learned(each.tokens, each.weights)) for each in sequences]


def test_of_a_text_all_is_learned_and_its_end(encoder: Encoder) -> None:
    assert shown(encoder, {"text": "hé"}) == [("hé<eos>", "hé<eos>")]
    assert shown(encoder, {"text": "a<eos>"}) == [("a<eos>", "a<eos>")]


def test_of_a_completion_the_prompt_is_not_learned(encoder: Encoder) -> None:
    value = {"prompt": "2+2=", "completion": "4"}
    assert shown(encoder, value) == [("2+2=4<eos>", "4<eos>")]
    assert shown(encoder, {**value, "prompt": ""}) == [("4<eos>", "4<eos>")]


def test_of_a_chat_the_assistants_turns_are_learned_with_their_ends(encoder: Encoder) -> None:
    whole = (
        "<turn>user\nHi<eos>\n<turn>assistant\nYes<eos>\n"
        "<turn>user\nReally?<eos>\n<turn>assistant\nNo<eos>\n"
    )
    value = chat("Hi", "Yes", "Really?", "No")
    assert shown(encoder, value) == [(whole, "Yes<eos>|No<eos>")]
    value["messages"][1]["weight"] = 0
    assert shown(encoder, value) == [(whole, "No<eos>")]


def test_a_turn_that_the_template_does_not_end_is_learned_to_its_end() -> None:
    encoder = Encoder(make_tokenizer(eos=False))
    value = parse_record(chat("Hi", "Yes"), "auto")
    (found,) = encoder.encode(value)
    assert learned(found.tokens, found.weights) == "Yes<eos>\n"
    encoder.close()


def test_the_end_of_a_turn_that_no_file_names_is_learned_and_the_newline_is_not(
    tmp_path: Path,
) -> None:
    """A base model's directory: its EOS ends texts, and its template is ChatML."""
    vocab = {token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>", "<turn>", "<eos>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    tokenizer = Tokenizer.from_directory(tmp_path)
    encoder = Encoder(tokenizer)
    (found,) = encoder.encode(parse_record(chat("Hi", "Yes"), "auto"))
    assert learned(found.tokens, found.weights, tokenizer) == "Yes<eos>"
    (found,) = encoder.encode(parse_record({"text": "Yes"}, "auto"))
    assert learned(found.tokens, found.weights, tokenizer) == "Yes<|endoftext|>"
    encoder.close()


def test_of_a_pair_each_answer_is_a_sequence(encoder: Encoder) -> None:
    value = {"prompt": "a", "chosen": "b", "rejected": "c"}
    assert shown(encoder, value) == [("ab<eos>", "b<eos>"), ("ac<eos>", "c<eos>")]


def test_a_beginning_token_comes_once() -> None:
    tokenizer = make_tokenizer(bos=True)
    encoder = Encoder(tokenizer)
    for begins, ends, text in [
        (True, True, "<bos>ab<eos>"),
        (True, False, "<bos>ab"),
        (False, False, "ab"),
        (False, True, "ab<eos>"),
    ]:
        (found,) = encoder.encode(Text(text="ab", begins=begins, ends=ends))
        assert text_of(found.tokens, tokenizer) == text
    (found,) = encoder.encode(parse_record({"prompt": "a", "completion": "b"}, "auto"))
    assert text_of(found.tokens, tokenizer) == "<bos>ab<eos>"
    assert learned(found.tokens, found.weights, tokenizer) == "b<eos>"


def test_a_token_across_the_border_belongs_to_what_is_learned() -> None:
    encoder = Encoder(make_tokenizer(merges=[("a", "b")]))
    (found,) = encoder.encode(parse_record({"prompt": "xa", "completion": "bc"}, "auto"))
    assert len(found.tokens) == 4  # x ab c <eos>
    assert found.weights.tolist() == [0, 1, 1, 1]


def test_what_can_not_be_encoded() -> None:
    encoder = Encoder(make_tokenizer(eos=False, chat_template=None))
    with pytest.raises(ValueError, match="no token is left to be learned: the text is too short"):
        encoder.encode(Text(text="a"))
    with pytest.raises(ValueError, match="the model has no chat template"):
        encoder.encode(parse_record(chat("Hi", "Yes"), "auto"))


def test_a_token_that_the_model_does_not_know_is_named() -> None:
    encoder = Encoder(TOKENIZER, vocab_size=258)
    (found,) = encoder.encode(Text(text="ab<eos>"))
    assert found.tokens[-1] == 257
    with pytest.raises(
        ValueError,
        match=r"the token '<turn>' has the id 258, outside the model's vocabulary of 258 tokens: "
        "the tokenizer is not the model's, or got tokens that the model has no embeddings for",
    ):
        encoder.encode(Text(text="a<turn>b"))
    for value in (chat("Hi", "Yes"), {"prompt": "<turn>", "chosen": "b", "rejected": "c"}):
        with pytest.raises(ValueError, match="'<turn>' has the id 258"):
            encoder.encode(parse_record(value, "auto"))
    encoder.close()


def sequence(count: int) -> TokenSequence:
    return TokenSequence(np.arange(count, dtype=np.int32), np.ones(count, np.float32))


@pytest.mark.parametrize("overlap", [0, 1, 3])
@pytest.mark.parametrize("count", range(2, 30))
def test_each_target_of_a_split_text_is_learned_once(count: int, overlap: int) -> None:
    pieces = cut(sequence(count), 4, splits=True, overlap=overlap)
    targets = [int(t) for piece in pieces for t in piece.tokens[1:][piece.weights[1:] > 0]]
    assert targets == list(range(1, count))
    for piece in pieces:
        assert 1 <= piece.num_inputs <= 4
        assert (np.diff(piece.tokens) == 1).all()
    for piece in pieces[1:]:  # what is learned has seen at least so many tokens
        assert int(np.flatnonzero(piece.weights[1:])[0]) == overlap


def test_a_truncated_sequence_keeps_its_beginning() -> None:
    (piece,) = cut(sequence(9), 4, splits=False, overlap=0)
    assert piece.tokens.tolist() == [0, 1, 2, 3, 4]
    assert cut(sequence(5), 4, splits=False, overlap=0)[0].num_inputs == 4


def test_pieces_without_anything_to_learn_are_left_out() -> None:
    tokens, weights = sequence(9)
    weights[:6] = 0
    (piece,) = cut(TokenSequence(tokens, weights), 4, splits=True, overlap=0)
    assert piece.tokens.tolist() == [4, 5, 6, 7, 8]
