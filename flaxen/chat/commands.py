"""The commands of a conversation, such as /reset, in one table.

Deliberately does not know the terminal, nor where answers come from.
"""

from __future__ import annotations

import difflib
import enum
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flaxen.chat.conversation import Conversation
from flaxen.protocol import SamplingParams

Say = Callable[[str], object]  # shows a note, which is no part of an answer

# The fields of SamplingParams that a conversation can set.
OPTIONS = (
    "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty",
    "presence_penalty", "frequency_penalty", "seed", "stop",
)  # fmt: skip
_DEFAULT = "default"
_KEYS = """
  \"\"\" begins a message of several lines, and \"\"\" ends it; a line that ends with \\ goes on.
  Ctrl-C stops an answer, a second one ends. Ctrl-D ends."""


class Next(enum.Enum):
    """What comes after a command."""

    READ = enum.auto()  # the next line of the user
    ANSWER = enum.auto()  # an answer to the last message
    CONTINUE = enum.auto()  # more of the last answer
    EXIT = enum.auto()


class _Command(NamedTuple):
    usage: str
    help: str
    run: Callable[[Conversation, str, Say], Next]


def run_command(line: str, conversation: Conversation, say: Say) -> Next:
    """Runs a command.

    Args:
      line: begins with /.
      conversation: is changed.
      say: shows what the command says.

    Raises:
      ValueError: there is no such command, or its argument is wrong.
      OSError: a file can't be read or written.
    """
    name, _, argument = line.partition(" ")
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}? /help lists them" if near else "/help lists them"
        raise ValueError(
            f"there is no command {name}: {hint}. A message that begins with / is written between "
            '""" and """'
        )
    return COMMANDS[name].run(conversation, argument.strip(), say)


def _help(conversation: Conversation, argument: str, say: Say) -> Next:
    width = max(len(each.usage) for each in COMMANDS.values())
    lines = [f"  {each.usage:{width}}  {each.help}" for each in COMMANDS.values()]
    say("\n".join(lines) + _KEYS)
    return Next.READ


def _reset(conversation: Conversation, argument: str, say: Say) -> Next:
    conversation.reset()
    say("The conversation is forgotten.")
    return Next.READ


def _regenerate(conversation: Conversation, argument: str, say: Say) -> Next:
    if not conversation.ends_with_answer:
        raise ValueError("there is no answer yet to generate again")
    conversation.messages.pop()
    return Next.ANSWER


def _continue(conversation: Conversation, argument: str, say: Say) -> Next:
    if not conversation.ends_with_answer:
        raise ValueError("there is no answer yet to continue")
    return Next.CONTINUE


def _system(conversation: Conversation, argument: str, say: Say) -> Next:
    if argument:
        conversation.system = None if argument == '""' else argument
    shown = conversation.system
    say("There is no system message." if shown is None else f"The system message is: {shown}")
    return Next.READ


def _set(conversation: Conversation, argument: str, say: Say) -> Next:
    if not argument:
        say(_shown(conversation.sampling))
        return Next.READ
    name, _, text = argument.partition(" ")
    name, text = name.removeprefix("--").replace("-", "_"), text.strip()
    if name not in OPTIONS:
        raise ValueError(f"there is no option {name!r} to set: there are {', '.join(OPTIONS)}")
    if not text:
        raise ValueError(f"give {name} a value, as in /set {name} VALUE, or /set {name} {_DEFAULT}")
    if text == _DEFAULT:
        conversation.sampling.pop(name, None)
        say(f"{name} has its default.")
    else:
        value: Any = [text] if name == "stop" else _value(text)
        SamplingParams(**{name: value})
        conversation.sampling[name] = value
        say(f"{name} is {value}.")
    return Next.READ


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text  # SamplingParams says what it should be


def _shown(sampling: Mapping[str, object]) -> str:
    said = ", ".join(f"{name} {value}" for name, value in sampling.items()) or "nothing"
    return f"Set: {said}. The rest has its default. To set: {', '.join(OPTIONS)}"


def _save(conversation: Conversation, argument: str, say: Say) -> Next:
    if not argument:
        raise ValueError("name the file, as in /save chat.jsonl")
    conversation.save(Path(argument))
    say(f"{conversation.file} has the conversation: {len(conversation.asked)} messages")
    return Next.READ


def _load(conversation: Conversation, argument: str, say: Say) -> Next:
    if not argument:
        raise ValueError("name the file, as in /load chat.jsonl")
    conversation.load(Path(argument))
    last = conversation.asked[-1]
    say(f"{len(conversation.asked)} messages, the last by {last['role']}: {last['content']}")
    return Next.READ


def _exit(conversation: Conversation, argument: str, say: Say) -> Next:
    return Next.EXIT


COMMANDS: Mapping[str, _Command] = {
    each.usage.partition(" ")[0]: each
    for each in (
        _Command("/help", "lists the commands", _help),
        _Command("/reset", "forgets the conversation", _reset),
        _Command("/regenerate", "answers your last message again", _regenerate),
        _Command("/continue", "goes on with the last answer, where it was cut", _continue),
        _Command("/set NAME VALUE", "sets a sampling option; /set alone shows them", _set),
        _Command("/system TEXT", 'sets the system message; "" is none', _system),
        _Command("/save FILE", "writes the conversation as JSONL, for flaxen train", _save),
        _Command("/load FILE", "goes on with a conversation that was saved", _load),
        _Command("/exit", "ends", _exit),
    )
}
