"""From Anthropic's tools and tool_choice to those of a chat.

Deliberately does not know: how a model is told of tools.
"""

from __future__ import annotations

from typing import Any

from flaxen.server.errors import invalid, unsupported
from flaxen.server.generation.fields_without_effect import CACHE_CONTROL, Rule, drop_inside
from flaxen.server.schema import must_be, shorten

_WITHOUT_EFFECT = {
    "cache_control": CACHE_CONTROL,
    "eager_input_streaming": Rule(
        lambda value: isinstance(value, bool), "it must be true or false"
    ),
    "defer_loading": Rule(lambda value: value is False, "all tools are shown to the model"),
    "allowed_callers": Rule(lambda value: value == ["direct"], "this server runs no code"),
    "input_examples": Rule(lambda value: value == [], "put examples into the description"),
}
_FIELDS = ("name", "description", "input_schema", "type", "strict")
_ONE_CALL = {"type": str, "disable_parallel_tool_use": bool}
# The fields of a tool_choice by its type, and their types.
_CHOICES: dict[str, dict[str, type]] = {
    "auto": _ONE_CALL,
    "any": _ONE_CALL,
    "tool": {**_ONE_CALL, "name": str},
    "none": {"type": str},
}


def tool_fields(tools: list[Any] | None, choice: Any) -> dict[str, Any]:
    """The chat's `tools`, `tool_choice` and `parallel_tool_calls`.

    Raises:
      ApiError: 400, a tool or the choice is invalid; or a tool is one that a server runs.
    """
    read = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools or ())]
    fields: dict[str, Any] = {"tools": read or None}
    if choice is None:
        return fields
    kind = choice.get("type") if isinstance(choice, dict) else None
    known = _CHOICES.get(kind, {}) if isinstance(kind, str) else {}
    if (
        not known
        or any(
            name not in known or not isinstance(value, known[name])
            for name, value in choice.items()
        )
        or (kind == "tool" and "name" not in choice)
    ):
        raise must_be(
            "tool_choice",
            "{'type': 'auto'}, {'type': 'any'} or {'type': 'tool', 'name': …}, each with "
            "disable_parallel_tool_use (true or false) if wanted, or {'type': 'none'}",
            choice,
        )
    named = {"type": "function", "function": {"name": choice.get("name")}}
    mode: Any = {"any": "required", "tool": named}.get(str(kind), kind)
    one_call = choice.get("disable_parallel_tool_use")
    return fields | {"tool_choice": mode, "parallel_tool_calls": False if one_call else None}


def _tool(tool: Any, where: str) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise must_be(where, "an object", tool)
    kind = tool.get("type")
    if kind is not None and kind != "custom":
        raise unsupported(
            f"{where}.type = {shorten(kind)} is refused: this server runs no tools of its own; "
            "send tools with an input_schema, which the client runs",
            f"{where}.type",
        )
    fields = drop_inside(tool, _WITHOUT_EFFECT, f"{where}.")
    for name in fields:
        if name not in _FIELDS:
            param = f"{where}.{name[:80]}"
            raise invalid(
                f"unknown field {param!r}: a tool has {', '.join(_FIELDS)}",
                param,
                "unknown_parameter",
            )
    schema = fields.get("input_schema")
    if not isinstance(schema, dict):
        raise must_be(f"{where}.input_schema", "a JSON schema, which is an object", schema)
    function = {"name": fields.get("name"), "parameters": schema}
    given = {key: fields[key] for key in ("description", "strict") if fields.get(key) is not None}
    return {"type": "function", "function": function | given}
