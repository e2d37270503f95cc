"""Answers of OpenAI's chats and completions as the chunks of a stream, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from flaxen.router.plugins.reply import Json

# Texts that come whole, while other texts come in pieces.
_WHOLE = {"role", "id", "type", "name", "object", "model", "finish_reason"}


def chunks_of(api: str, answer: Json, *, with_usage: bool) -> Iterator[Json]:
    """The chunks of a whole answer: of each choice one with what it says, and one with its end."""
    envelope = {k: v for k, v in answer.items() if k not in ("choices", "usage")}
    if api == "chat":
        envelope["object"] = "chat.completion.chunk"
    for choice in answer["choices"]:
        said = {k: v for k, v in choice.items() if k not in ("finish_reason", "message")}
        end: dict[str, Any] = {"index": choice["index"]}
        if api == "chat":
            said["delta"], end["delta"] = _delta(choice["message"]), {}
        else:
            end["text"] = ""
        yield {**envelope, "choices": [{**said, "finish_reason": None}]}
        yield {**envelope, "choices": [{**end, "finish_reason": choice["finish_reason"]}]}
    if with_usage:
        yield {**envelope, "choices": [], "usage": answer.get("usage")}


def _delta(message: Json) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if not calls:
        return dict(message)
    return {**message, "tool_calls": [{"index": i, **call} for i, call in enumerate(calls)]}


def answer_of_chunks(api: str, chunks: Iterable[Json]) -> dict[str, Any] | None:
    """The whole answer that chunks stand for; None if one is an error. Whether it is finished is
    not checked."""
    answer: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        if chunk.get("error") is not None:
            return None
        for choice in chunk.get("choices", ()):
            _merge(choices.setdefault(choice["index"], {}), choice)
        told = {k: v for k, v in chunk.items() if v is not None or k not in answer}
        answer |= {k: v for k, v in told.items() if k != "choices"}
    if api == "chat":
        answer["object"] = "chat.completion"
    answer["choices"] = [_whole(api, choices[index]) for index in sorted(choices)]
    return answer


def _whole(api: str, choice: dict[str, Any]) -> dict[str, Any]:
    if api == "chat":
        message = {"role": "assistant", "content": None, **choice.pop("delta", {})}
        for call in message.get("tool_calls") or ():
            call.pop("index", None)
        choice["message"] = message
    return choice


def _merge(there: dict[str, Any], more: Json) -> None:
    """Adds the pieces of an object to what came before."""
    for name, value in more.items():
        before = there.get(name)
        if value is None:
            there.setdefault(name, None)
        elif isinstance(value, dict):
            there[name] = {} if before is None else before
            _merge(there[name], value)
        elif isinstance(value, list):
            there[name] = [] if before is None else before
            _merge_list(there[name], value)
        elif isinstance(value, str) and isinstance(before, str) and name not in _WHOLE:
            there[name] = before + value
        elif not (isinstance(before, str) and value == ""):
            there[name] = value


def _merge_list(there: list[Any], more: list[Any]) -> None:
    """Adds items: pieces of calls by their index, others behind."""
    for item in more:
        if not isinstance(item, dict) or "index" not in item:
            there.append(item)
            continue
        known = next((each for each in there if each["index"] == item["index"]), None)
        if known is None:
            there.append(known := {})
        _merge(known, item)
