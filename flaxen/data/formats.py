"""Converts the records of other formats of data sets to OpenAI's keys.

ShareGPT names the speaker with "from"; Alpaca has an instruction and an output. Both become
conversations. Deliberately does not know: which parts of a record are trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from flaxen.data.messages import TRAINED_MARKS, read_text, show

# ShareGPT's names of the speakers, as they occur in data sets.
_ROLES = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant",
    "assistant": "assistant", "chatgpt": "assistant", "model": "assistant", "tool": "tool",
    "observation": "tool", "function_response": "tool", "tool_response": "tool",
}  # fmt: skip
_TURNS = ("messages", "conversations", "prompt", "completion", "chosen", "rejected")
_CALLS = ("function_call", "tool_call")  # also the assistant's turns; the value is a call in JSON


def to_openai(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the record with messages (or a prompt of messages) instead of other formats' keys.

    Raises:
      ValueError: the value of such a key is invalid.
    """
    record = {name: _turns(each, name) if name in _TURNS else each for name, each in record.items()}
    has_answers = "chosen" in record and "rejected" in record
    asks = "prompt" in record and (has_answers or "completion" in record)
    if "messages" in record and has_answers and "prompt" not in record:
        return _asked_by_messages(record)
    if "messages" in record or asks:
        return record
    if "conversations" in record:
        rest = _without(record, "conversations", "prompt")
        return {**rest, "prompt" if has_answers else "messages": record["conversations"]}
    if "instruction" in record and (has_answers or "output" in record):
        asked = [*_history(record.get("history")), {"role": "user", "content": _asked(record)}]
        rest = _without(record, "instruction", "input", "output", "history", "text", "prompt")
        if has_answers:
            return {**rest, "prompt": asked}
        answer = {"role": "assistant", "content": read_text(record["output"], "output")}
        return {**rest, "messages": [*asked, answer]}
    return record


def _asked_by_messages(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Treats messages beside two answers as the prompt, unless they end with an answer."""
    last = record["messages"][-1:] if isinstance(record["messages"], list) else []
    if not last or not isinstance(last[0], Mapping) or last[0].get("role") == "assistant":
        return record
    return {**_without(record, "messages"), "prompt": record["messages"]}


def _without(record: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: each for name, each in record.items() if name not in names}


def _turns(value: object, name: str) -> object:
    """ShareGPT's turns as messages. Other values are kept; reading them as messages gives the
    error.
    """
    if isinstance(value, Mapping) and ("from" in value or "role" in value):
        value = [value]
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        return value
    return [_turn(turn, f"{name}[{i}]") for i, turn in enumerate(value)]


def _turn(turn: object, where: str) -> object:
    if not isinstance(turn, Mapping) or "from" not in turn:
        return turn
    speaker, value = turn["from"], turn.get("value")
    marks = {name: turn[name] for name in TRAINED_MARKS if name in turn}
    if not isinstance(speaker, str) or speaker not in (*_ROLES, *_CALLS):
        raise ValueError(
            f"{where}.from must be one of {', '.join((*_ROLES, *_CALLS))}, got {show(speaker)}"
        )
    if speaker in _CALLS:
        return {"role": "assistant", "tool_calls": _calls(value, where), **marks}
    return {"role": _ROLES[speaker], "content": value, **marks}


def _calls(value: object, where: str) -> object:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(
                f"{where}.value is not valid JSON: {error}; a function call must be an object with "
                "name and arguments"
            ) from None
    return [value] if isinstance(value, Mapping) else value


def _asked(record: Mapping[str, Any]) -> str:
    """The instruction and, on the next line, its input."""
    instruction = read_text(record["instruction"], "instruction")
    given = record.get("input")
    if given is None or given == "":
        return instruction
    return f"{instruction}\n{read_text(given, 'input')}"


def _history(value: object) -> list[dict[str, Any]]:
    """Messages of earlier turns, from pairs of (instruction, answer)."""
    messages: list[dict[str, Any]] = []
    pairs = [] if value is None else value
    if not isinstance(pairs, Sequence) or isinstance(pairs, str):
        raise ValueError(f"history must be a list of pairs of texts, got {show(value)}")
    for i, pair in enumerate(pairs):
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise ValueError(f"history[{i}] must be a pair of texts, got {show(pair)}")
        messages.append({"role": "user", "content": read_text(pair[0], f"history[{i}][0]")})
        messages.append({"role": "assistant", "content": read_text(pair[1], f"history[{i}][1]")})
    return messages
