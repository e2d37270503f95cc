"""Reads the tools of a chat body, and which of them the answer may or must call.

Deliberately does not know: how a model is told of tools, or how it writes calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flaxen.output_parsers.tools import Tools
from flaxen.server.errors import invalid
from flaxen.server.generation.bodies import CustomBody, ToolBody
from flaxen.server.generation.custom_tools import as_function
from flaxen.server.schema import must_be, shorten

_MODES = ("none", "auto", "required")


@dataclass(frozen=True, kw_only=True)
class ToolUse:
    """The tools that an answer may call."""

    described: tuple[dict[str, Any], ...] = ()  # as the chat template gets them
    schemas: Tools = field(default_factory=dict)  # of the arguments, by name
    strict: frozenset[str] = frozenset()  # the names of those whose arguments must be valid
    custom: frozenset[str] = frozenset()  # the names of those whose input is a text
    must_call: bool = False
    one_call: bool = False  # an answer has at most one
    are_functions: bool = False  # they were sent as `functions`, and are called as such

    def __bool__(self) -> bool:
        return bool(self.described)


def read_tools(
    tools: Sequence[ToolBody] | None, choice: Any, *, parallel_tool_calls: bool | None
) -> ToolUse:
    """The tools that are left after `tool_choice`: with "none" there are none.

    Args:
      tools: the body's.
      choice: the body's `tool_choice`; None is "auto".
      parallel_tool_calls: the body's; None is True.

    Raises:
      ApiError: 400 with the wrong place as its param.
    """
    tools = tools or ()
    given = [_described(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
    names = [tool["function"]["name"] for tool in given]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise invalid(f"tools must have different names, got {twice!r} twice", "tools")
    mode, chosen, is_named = _read_choice(choice, names)
    if mode == "none":
        return ToolUse()
    used = [tool for tool in given if chosen is None or tool["function"]["name"] in chosen]
    functions = [tool["function"] for tool in used]
    return ToolUse(
        described=tuple(used),
        schemas={function["name"]: function.get("parameters", {}) for function in functions},
        strict=frozenset(each["name"] for each in functions if each.get("strict")),
        custom=frozenset(tool.custom.name for tool in tools if tool.custom is not None),
        must_call=mode == "required",
        one_call=is_named or parallel_tool_calls is False,
    )


def _described(tool: ToolBody, where: str) -> dict[str, Any]:
    """The tool as the chat template gets it.

    Raises:
      ApiError: 400, it has not the one field that is named as its type.
    """
    given = {"function": tool.function, "custom": tool.custom}
    body = given.pop(tool.type)
    if body is None:
        param = f"{where}.{tool.type}"
        raise invalid(f"the field {param!r} is required", param, "missing_required_parameter")
    for name, other in given.items():
        if other is not None:
            param = f"{where}.{name}"
            raise invalid(f"{param} must be left out of a tool of type {tool.type!r}", param)
    if isinstance(body, CustomBody):
        place = f"{where}.custom.format"
        function = as_function(body.name, body.description, body.format, place)
    else:
        function = body.model_dump(exclude_none=True, exclude={"cache_control"})
    return {"type": "function", "function": function}


def _read_choice(choice: Any, names: Sequence[str]) -> tuple[str, frozenset[str] | None, bool]:
    """(the mode, the names that may be called or None for all, whether it is one that was named).

    Raises:
      ApiError: 400, `choice` has no known form, or needs tools that there are not.
    """
    if choice is None or (isinstance(choice, str) and choice in _MODES):
        mode = choice or "auto"
        if mode == "required" and not names:
            raise invalid("tool_choice 'required' needs tools", "tool_choice")
        return mode, None, False
    kind = choice.get("type") if isinstance(choice, Mapping) else None
    if kind in ("function", "custom"):
        return "required", _named([choice], names, "tool_choice"), True
    if kind == "allowed_tools" and isinstance(choice.get("allowed_tools"), Mapping):
        allowed = choice["allowed_tools"]
        listed, mode = allowed.get("tools"), allowed.get("mode", "auto")
        if mode in ("auto", "required") and isinstance(listed, list) and listed:
            return mode, _named(listed, names, "tool_choice.allowed_tools"), False
    raise must_be(
        "tool_choice",
        "'none', 'auto', 'required', {'type': 'function', 'function': {'name': …}} or "
        "{'type': 'allowed_tools', 'allowed_tools': {'mode': …, 'tools': [{'type': "
        "'function', 'function': {'name': …}}]}} (with 'custom' in place of 'function' "
        "for such tools)",
        choice,
    )


def _named(choices: Sequence[Any], names: Sequence[str], where: str) -> frozenset[str]:
    found = set()
    for choice in choices:
        kind = choice.get("type") if isinstance(choice, Mapping) else None
        tool = choice.get(kind) if isinstance(kind, str) else None
        name = tool.get("name") if isinstance(tool, Mapping) else None
        if not isinstance(name, str) or name not in names:
            known = ", ".join(names[:20]) or "there are none"
            raise invalid(f"{where} must name one of tools ({known}), got {shorten(name)}", where)
        found.add(name)
    return frozenset(found)
