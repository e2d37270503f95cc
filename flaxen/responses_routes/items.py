"""Reads the items of an `input`: messages, reasoning, calls of tools and their results.

What is read has the form in which items are stored and answered: each has a type and an id, and
the texts of messages are parts. Deliberately does not know chat messages.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from flaxen.responses_routes.summaries import read_summary
from flaxen.server.errors import ApiError, invalid, unsupported
from flaxen.server.schema import StrictBody, must_be, parse, shorten
from flaxen.text.tool_calls import read_tool_calls

Item = dict[str, Any]

_OUTPUT_ID = re.compile(r"[a-z]+_([0-9a-f]{32})[0-9a-f]{1,8}")
_Status = Literal["in_progress", "completed", "incomplete"]
_TEXT_PARTS = {
    "input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal",
}  # fmt: skip


class _Message(StrictBody):
    type: str | None = None
    id: str | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Any
    status: _Status | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class _Reasoning(StrictBody):
    type: str
    id: str | None = None
    summary: list[Any] | None = None
    content: list[Any] | None = None
    encrypted_content: str | None = None
    status: _Status | None = None


class _Call(StrictBody):
    type: str
    id: str | None = None
    call_id: str
    name: str
    namespace: str | None = None
    status: _Status | None = None


class _FunctionCall(_Call):
    arguments: str


class _CustomCall(_Call):
    input: str


class _Result(StrictBody):
    type: str
    id: str | None = None
    call_id: str
    output: Any
    status: _Status | None = None


class _Compaction(StrictBody):
    type: str
    id: str | None = None
    encrypted_content: str
    created_by: str | None = None


class _Reference(StrictBody):
    type: str
    id: str


class _Part(StrictBody):
    type: str
    text: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None  # of texts that another server wrote
    logprobs: list[Any] | None = None
    prompt_cache_breakpoint: dict[str, Any] | None = None  # prefixes are cached without it


def new_id(prefix: str) -> str:
    """A new, random id, as "msg_…"."""
    return f"{prefix}_{uuid.uuid4().hex}"


def output_id(prefix: str, response_id: str, number: int) -> str:
    """The id of an item of a response: it begins with that of the response, to be found by it."""
    return f"{prefix}_{response_id.partition('_')[2]}{number:x}"


def response_of(item_id: str) -> str | None:
    """The id of the response that an item would be of; None if no response has such items."""
    found = _OUTPUT_ID.fullmatch(item_id)
    return None if found is None else f"resp_{found[1]}"


def read_items(given: Any) -> list[Item]:
    """Reads an `input`: a text, which is a user's message, or a list of items.

    Raises:
      ApiError: 400 with the wrong place as its param.
    """
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise must_be("input", "a string or a list of items", given, "invalid_type")
    if not given:
        raise invalid("input must hold at least one item, got none", "input")
    return [_read_item(item, f"input[{i}]") for i, item in enumerate(given)]


def _read_item(item: Any, where: str) -> Item:
    if not isinstance(item, dict):
        raise must_be(where, "an item", item, "invalid_type")
    kind = item.get("type") or "message"
    read = _READERS.get(kind) if isinstance(kind, str) else None
    if read is None:
        raise invalid(
            f"{where} of type {shorten(kind)} is refused: this server reads {', '.join(_READERS)}",
            f"{where}.type",
            "unsupported_value",
        )
    return read(item, where)


def _read_message(item: Mapping[str, Any], where: str) -> Item:
    message = parse(_Message, item, where=f"{where}.")
    content = message.content
    if isinstance(content, str):
        kind = "output_text" if message.role == "assistant" else "input_text"
        content = [{"type": kind, "text": content}]
    return {
        "id": message.id or new_id("msg"),
        "type": "message",
        "status": "completed",
        "role": message.role,
        "content": _read_parts(content, f"{where}.content"),
    }


def _read_reasoning(item: Mapping[str, Any], where: str) -> Item:
    reasoning = parse(_Reasoning, item, where=f"{where}.")
    read: Item = {"id": reasoning.id or new_id("rs"), "type": "reasoning", "status": "completed"}
    for name, kind in (("summary", "summary_text"), ("content", "reasoning_text")):
        parts = getattr(reasoning, name) or []
        for i, part in enumerate(parts):
            text = part.get("text") if isinstance(part, dict) else None
            if not isinstance(text, str) or part.get("type") != kind:
                place = f"{where}.{name}[{i}]"
                raise must_be(place, f"{{'type': '{kind}', 'text': …}}", part)
        read[name] = [{"type": kind, "text": part["text"]} for part in parts]
    if reasoning.encrypted_content and not (read["content"] or read["summary"]):
        raise _secret(where)
    return read


def _read_call(item: Mapping[str, Any], where: str) -> Item:
    call = parse(_FunctionCall, item, where=f"{where}.")
    try:
        read_tool_calls([{"name": call.name, "arguments": call.arguments}], where)
    except ValueError as error:
        raise invalid(str(error), f"{where}.arguments") from None
    return _call(call, "fc", {"arguments": call.arguments})


def _read_custom_call(item: Mapping[str, Any], where: str) -> Item:
    call = parse(_CustomCall, item, where=f"{where}.")
    return _call(call, "ctc", {"input": call.input})


def _call(call: _Call, prefix: str, given: Item) -> Item:
    space = {} if call.namespace is None else {"namespace": call.namespace}
    return {
        "id": call.id or new_id(prefix),
        "type": call.type,
        "status": "completed",
        "call_id": call.call_id,
        "name": call.name,
        **space,
        **given,
    }


def _read_result(item: Mapping[str, Any], where: str) -> Item:
    result = parse(_Result, item, where=f"{where}.")
    output = result.output
    return {
        "id": result.id or new_id("fco" if result.type == "function_call_output" else "ctco"),
        "type": result.type,
        "status": "completed",
        "call_id": result.call_id,
        "output": output if isinstance(output, str) else _read_parts(output, f"{where}.output"),
    }


def _read_compaction(item: Mapping[str, Any], where: str) -> Item:
    compaction = parse(_Compaction, item, where=f"{where}.")
    content = compaction.encrypted_content
    if read_summary(content) is None:
        raise _secret(where)
    item_id = compaction.id or new_id("cmp")
    return {"id": item_id, "type": "compaction", "encrypted_content": content}


def _secret(where: str) -> ApiError:
    return unsupported(
        f"{where}.encrypted_content is refused: only the server that encrypted it can read it. "
        "Leave the item out",
        f"{where}.encrypted_content",
    )


def _read_reference(item: Mapping[str, Any], where: str) -> Item:
    reference = parse(_Reference, item, where=f"{where}.")
    return {"type": reference.type, "id": reference.id}  # history.py finds what it means


def _read_parts(parts: Any, where: str) -> list[Item]:
    if not isinstance(parts, list):
        raise must_be(where, "a string or a list of parts", parts, "invalid_type")
    return [_read_part(part, f"{where}[{i}]") for i, part in enumerate(parts)]


def _read_part(given: Any, where: str) -> Item:
    kind = given.get("type") if isinstance(given, dict) else None
    if not isinstance(kind, str) or kind not in _TEXT_PARTS:
        raise must_be(
            where,
            f"a part of type {', '.join(_TEXT_PARTS)}, as the model reads text only",
            kind if isinstance(given, dict) else given,
        )
    part, name = parse(_Part, given, where=f"{where}."), _TEXT_PARTS[kind]
    text = getattr(part, name)
    if text is None:
        raise must_be(f"{where}.{name}", "a string", given)
    if kind == "output_text":
        return {
            "type": kind,
            "text": text,
            "annotations": part.annotations or [],
            "logprobs": part.logprobs or [],
        }
    return {"type": "input_text" if kind == "text" else kind, name: text}


_READERS: dict[str, Callable[[Mapping[str, Any], str], Item]] = {
    "message": _read_message,
    "reasoning": _read_reasoning,
    "function_call": _read_call,
    "function_call_output": _read_result,
    "custom_tool_call": _read_custom_call,
    "custom_tool_call_output": _read_result,
    "compaction": _read_compaction,
    "item_reference": _read_reference,
}


def text_of(parts: Sequence[Item]) -> list[str]:
    """The texts of read parts."""
    return [part[_TEXT_PARTS.get(part["type"], "text")] for part in parts]
