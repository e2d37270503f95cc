"""The commands of a conversation."""

from __future__ import annotations

from pathlib import Path

import pytest

from flaxen.chat.commands import COMMANDS, Next, run_command
from flaxen.chat.conversation import Conversation


def run(conversation: Conversation, line: str) -> str:
    """What a command says."""
    notes: list[str] = []
    assert run_command(line, conversation, notes.append) is Next.READ
    (note,) = notes
    return note


def test_help_lists_every_command() -> None:
    said = run(Conversation(), "/help")
    assert all(name in said for name in COMMANDS)
    assert '"""' in said


def test_the_system_message() -> None:
    conversation = Conversation()
    assert run(conversation, "/system") == "There is no system message."
    assert run(conversation, "/system  Be kind. ") == "The system message is: Be kind."
    assert conversation.asked == [{"role": "system", "content": "Be kind."}]
    assert run(conversation, '/system ""') == "There is no system message."
    assert conversation.asked == []


def test_options_are_set_by_the_names_of_the_command_line_too() -> None:
    conversation = Conversation(sampling={"seed": 3})
    assert run(conversation, "/set top-k 5") == "top_k is 5."
    assert run(conversation, "/set --min-p 0.1") == "min_p is 0.1."
    assert run(conversation, "/set stop The end") == "stop is ['The end']."
    assert conversation.sampling == {"seed": 3, "top_k": 5, "min_p": 0.1, "stop": ["The end"]}
    assert run(conversation, "/set seed default") == "seed has its default."
    assert run(conversation, "/set").startswith("Set: top_k 5, min_p 0.1, stop ['The end']. The re")
    assert run(Conversation(), "/set").startswith("Set: nothing.")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/set heat 1", "there is no option 'heat' to set: there are max_tokens, temperature, "),
        ("/set temperature", "give temperature a value, as in /set temperature VALUE, or /set tem"),
        ("/set temperature hot", r"temperature must be a number at least 0, got 'hot'"),
        ("/set top_p 2", r"top_p must be a number in \[0, 1\], got 2"),
        ("/set max_tokens 1.5", "max_tokens must be a whole number at least 1, got 1.5"),
        ("/save", "name the file, as in /save chat.jsonl"),
        ("/load", "name the file, as in /load chat.jsonl"),
        ("/frobnicate", 'there is no command /frobnicate: /help lists them. A message that begins'),
    ],
)  # fmt: skip
def test_a_wrong_command_says_how_to_write_it(line: str, message: str) -> None:
    conversation = Conversation()
    with pytest.raises(ValueError, match=message):
        run(conversation, line)
    assert conversation == Conversation()


def test_a_conversation_is_saved_and_loaded(tmp_path: Path) -> None:
    conversation = Conversation(system="Be kind.")
    conversation.add("user", "hello")
    conversation.add("assistant", "hi")
    file = tmp_path / "chat.jsonl"
    assert run(conversation, f"/save {file}") == f"{file} has the conversation: 3 messages"
    other = Conversation()
    assert run(other, f"/load {file}") == "3 messages, the last by assistant: hi"
    assert other == conversation
