"""Converts tool calls of OpenAI's messages to what chat templates expect.

OpenAI's API writes the arguments of a call as a JSON string; templates print an object. Serving and
training both read calls here, so a model is trained on what it is served with. Deliberately does
not know: templates, which tools there are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def shows_tool_calls(template: str | None) -> bool:
    """Whether a chat template's source mentions the tool calls of messages at all."""
    return template is not None and "tool_calls" in template


def read_tool_calls(calls: object, where: str) -> list[dict[str, Any]]:
    """Copies tool calls, with the arguments of each as an object.

    Args:
      calls: each {"function": {"name", "arguments"}}, or only the function's object.
      where: the name of the list in errors.

    Raises:
      ValueError: `calls` is not a list of calls, or arguments are not a JSON object.
    """
    if isinstance(calls, str | Mapping) or not isinstance(calls, Sequence):
        raise ValueError(f"{where} must be a list of calls, got {_show(calls)}")
    return [_read_call(call, f"{where}[{i}]") for i, call in enumerate(calls)]


def _read_call(call: object, where: str) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        raise ValueError(f"{where} must be an object with a function, got {_show(call)}")
    if call.get("function") is None and "name" in call:
        call = {"type": "function", "function": call}
    function = call.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
        raise ValueError(f"{where}.function must be an object with a name, got {_show(function)}")
    arguments = _arguments(function.get("arguments"), f"{where}.function.arguments")
    return {**call, "function": {**function, "arguments": arguments}}


def _arguments(value: object, where: str) -> Mapping[str, Any]:
    if value is None or value == "":
        return {}  # several servers write a call without arguments like this
    if isinstance(value, str):
        try:
            found = json.loads(value)
            if "\\u" in value:  # perhaps half of a surrogate pair, which is not valid text
                json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{where} holds half of a surrogate pair (\\ud800 to \\udfff), which is no text: "
                f"send the whole pair or leave it out; got {_show(value)}"
            ) from None
        except ValueError as error:
            raise ValueError(
                f"{where} is not valid JSON: {error}; it must be a JSON object, got {_show(value)}"
            ) from None
        except RecursionError:
            raise ValueError(f"{where} is not valid JSON: it is nested too deeply") from None
    else:
        found = value
    if not isinstance(found, Mapping):
        raise ValueError(f"{where} must be a JSON object, got {_show(value)}")
    return found


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
