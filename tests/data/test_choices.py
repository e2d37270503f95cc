"""Multiple-choice questions: what is scored of them, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flaxen.data.choices import encode_question, parse_question, read_questions
from flaxen.data.encode import Encoder
from tests.data.tiny_text import TOKENIZER, learned, text_of, write_jsonl

ASKED: dict[str, Any] = {"choices": ["no", "yés"], "answer": 1}


def shown(value: dict[str, Any], length: int = 100) -> list[tuple[str, str]]:
    encoder = Encoder(TOKENIZER)
    sequences, _ = encode_question(encoder, parse_question(value), TOKENIZER.eos_token_ids, length)
    encoder.close()
    return [(text_of(each.tokens), learned(each.tokens, each.weights)) for each in sequences]


def test_a_choice_is_scored_without_its_end() -> None:
    assert shown({"prompt": "Is it?", **ASKED}) == [
        ("Is it? no", " no"),
        ("Is it? yés", " yés"),
    ]
    assert shown({"prompt": "Is it?\n", **ASKED})[0] == ("Is it?\nno", "no")
    assert shown({"prompt": "2+2", "choices": ["\n4", "\n5"], "answer": 0})[0] == ("2+2\n4", "\n4")
    assert shown({"question": "Is it?", **ASKED})[0] == ("Question: Is it?\nAnswer: no", " no")
    messages = [{"role": "user", "content": "Is it?"}]
    assert shown({"messages": messages, **ASKED})[1] == (
        "<turn>user\nIs it?<eos>\n<turn>assistant\nyés",
        "yés",
    )


def test_lengths_are_bytes() -> None:
    assert parse_question({"prompt": "a", **ASKED}).choice_bytes == (2, 4)


def test_the_beginning_of_a_long_prompt_is_cut_off() -> None:
    question = parse_question({"prompt": "0123456789", **ASKED})
    encoder = Encoder(TOKENIZER)
    sequences, was_cut = encode_question(encoder, question, TOKENIZER.eos_token_ids, 6)
    assert was_cut
    assert [text_of(each.tokens) for each in sequences] == ["6789 no", "89 yés"]
    assert all(each.num_inputs == 6 for each in sequences)
    with pytest.raises(ValueError, match="a choice of 5 tokens is too long for 4 tokens"):
        encode_question(encoder, question, TOKENIZER.eos_token_ids, 4)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "a question must be a JSON object, got 3"),
        ({}, "must have choices, answer and one of prompt, question and messages, got no keys"),
        ({"prompt": "a", "question": "b", **ASKED}, "one of prompt, question and messages"),
        ({"prompt": "a", "choices": ["b", "c"]}, "must have choices, answer"),
        ({"prompt": 1, **ASKED}, "prompt must be a text, got 1"),
        ({"messages": "Hi", **ASKED}, r"prompt\[0\] must be an object with a role"),
        ({"prompt": "a", "choices": ["b"], "answer": 0}, "choices must be a list of at least two"),
        ({"prompt": "a", "choices": ["b", ""], "answer": 0}, "a choice must be a text that is not"),
        ({"prompt": "a", "choices": ["b", "c"], "answer": 2}, "from 0 to 1, got 2"),
        ({"prompt": "a", "choices": ["b", "c"], "answer": "b"}, "from 0 to 1, got 'b'"),
        ({"prompt": "a", "choices": ["b", "c"], "answer": True}, "from 0 to 1, got True"),
    ],
)
def test_what_is_wrong_with_a_question(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_question(value)


def test_a_question_that_can_not_be_encoded_is_named_by_its_line(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "a<turn>", **ASKED}])
    (question,) = read_questions([file]).questions
    encoder = Encoder(TOKENIZER, vocab_size=258)
    with pytest.raises(ValueError, match=r"a.jsonl:1: the token '<turn>' has the id 258, outside"):
        encode_question(encoder, question, TOKENIZER.eos_token_ids, 100)


def test_what_changes_a_conversation_reaches_a_question() -> None:
    messages = [{"role": "user", "content": "Is it?"}]
    assert shown({"messages": messages, "system": "Be terse", **ASKED})[0][0].startswith(
        "<turn>system\nBe terse<eos>"
    )
    with pytest.raises(ValueError, match="system belongs to a conversation"):
        parse_question({"prompt": "a", "system": "b", **ASKED})


def test_files_of_questions(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "a", **ASKED}, {}, 3])
    with pytest.raises(ValueError, match=r"2 of 3 questions can't be used: \S*a.jsonl:2: a quest"):
        read_questions([file])
    found = read_questions([file, file], "skip")
    assert (len(found.questions), found.num_bad) == (2, 4)
    with pytest.raises(ValueError, match=r"1 of 1 questions can't be used"):
        read_questions([write_jsonl(file, [3])], "skip")
    with pytest.raises(ValueError, match="there is no question: write one JSON object a line"):
        read_questions([write_jsonl(file, [])])
