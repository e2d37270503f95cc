"""A conversation's file, which is a record that can be trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flaxen.chat.conversation import Conversation
from flaxen.data.records import parse_record


def spoken() -> Conversation:
    conversation = Conversation(system="Be kind.")
    conversation.add("user", "What's “up”?\nTell me.")
    conversation.add("assistant", "The sky.")
    return conversation


def test_what_is_saved_is_a_record_for_training(tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    spoken().save(file)
    (line,) = file.read_text().splitlines()
    assert json.loads(line) == {"messages": spoken().asked}
    assert parse_record(json.loads(line), "auto")


def test_a_file_is_only_overwritten_by_its_own_conversation(tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    conversation = spoken()
    conversation.save(file)
    conversation.extend_answer(" Really.")
    conversation.save(file)
    loaded = Conversation()
    loaded.load(file)
    assert loaded.asked[-1]["content"] == "The sky. Really."
    loaded.save(file)
    loaded.reset()
    loaded.add("user", "another")
    with pytest.raises(ValueError, match=r"chat\.jsonl exists and is not of this conversation"):
        loaded.save(file)
    with pytest.raises(ValueError, match="nothing was said yet: there is nothing to save"):
        Conversation(system="Be kind.").save(tmp_path / "new.jsonl")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds 0 records: put the conversation to go on with into a file of its own"),
        ('{"messages": []}\n{"messages": []}', "holds 2 records"),
        ("hello", "is no conversation: Expecting value"),
        ("[]", "is no conversation of text messages by system, user, assistant: it must be one"),
        ('{"messages": [{"role": "tool", "content": "x"}]}', "no conversation of text messages"),
        ('{"messages": [{"role": "user", "content": ["x"]}]}', "no conversation of text messages"),
        (
            '{"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": "y"}]}',
            "has a system message after others: only the first may be one",
        ),
    ],
)
def test_what_is_no_conversation_is_not_loaded(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "chat.jsonl"
    file.write_text(text)
    conversation = spoken()
    with pytest.raises(ValueError, match=message):
        conversation.load(file)
    assert conversation == spoken()
