"""The tools and the tool choice of a response, as those of a chat: OpenAI writes them flatter here,
and may put them into namespaces.

Deliberately does not know: what is checked of them, how an answer calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flaxen.server.errors import invalid
from flaxen.server.generation.fields_without_effect import Rule, drop_inside
from flaxen.server.schema import shorten

_KINDS = ("function", "custom")
# A coding agent offers the search of OpenAI's servers to every model. Nothing has to call it, so
# that an answer without it is what was asked for; the response does not list it (decision 0331).
_SEARCHES = (
    "web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11",
)  # fmt: skip
_WITHOUT_EFFECT = {
    "defer_loading": Rule(lambda value: isinstance(value, bool), "it must be true or false"),
    "allowed_callers": Rule(lambda value: value == ["direct"], "this server runs no code"),
}


def offered(tools: Sequence[Any] | None) -> list[Any]:
    """The tools without searches, of which the model is not told."""
    return [
        tool
        for tool in tools or ()
        if not (isinstance(tool, dict) and tool.get("type") in _SEARCHES)
    ]


def nested_tools(tools: Sequence[Any]) -> list[dict[str, Any]]:
    """{"type": "function", "name": …} as {"type": "function", "function": {"name": …}}; those of
    namespaces have the names of `full_name`.

    Raises:
      ApiError: 400, a tool is one that the server would have to run, or a namespace is invalid.
    """
    return [_nested(tool, where, space) for tool, where, space in _flat(tools)]


def places(tools: Sequence[Any]) -> dict[str, dict[str, str]]:
    """The `name` and the `namespace` of each tool that is in a namespace, by its full name."""
    return {
        full_name(tool["name"], space["name"]): {"name": tool["name"], "namespace": space["name"]}
        for tool, _, space in _flat(tools)
        if space is not None
    }


def full_name(name: Any, namespace: str | None) -> Any:
    """The name by which the model calls a tool."""
    return name if namespace is None else f"{namespace}__{name}"


def _flat(tools: Sequence[Any]) -> Iterator[tuple[Any, str, dict[str, Any] | None]]:
    """(each tool, its place in the body, its namespace)."""
    for i, tool in enumerate(tools):
        where = f"tools[{i}]"
        if not isinstance(tool, dict) or tool.get("type") != "namespace":
            yield tool, where, None
            continue
        inner = tool.get("tools")
        if not isinstance(tool.get("name"), str) or not isinstance(inner, list):
            raise invalid(
                f"{where} must have a name (a string) and tools (a list), got {shorten(tool)}",
                where,
            )
        for j, each in enumerate(inner):
            yield each, f"{where}.tools[{j}]", tool


def _nested(tool: Any, where: str, space: Mapping[str, Any] | None) -> dict[str, Any]:
    kind = tool.get("type") if isinstance(tool, dict) else tool
    if kind not in _KINDS:
        raise invalid(
            f"{where} of type {shorten(kind)} is refused: the server runs no tools of its own, so "
            "there are those of types 'function' and 'custom' only, and namespaces of them",
            f"{where}.type",
            "unsupported_value",
        )
    fields = {name: value for name, value in tool.items() if name != "type"}
    fields = drop_inside(fields, _WITHOUT_EFFECT, f"{where}.")
    if space is not None:
        fields["name"] = full_name(fields.get("name"), space["name"])
        texts = [each.get("description") for each in (space, fields)]
        fields["description"] = "\n".join(text for text in texts if text) or None
    form = fields.get("format")
    if isinstance(form, dict) and form.get("type") == "grammar":
        grammar = {name: value for name, value in form.items() if name != "type"}
        fields["format"] = {"type": "grammar", "grammar": grammar}
    return {"type": kind, kind: fields}


def nested_choice(choice: Any) -> Any:
    """A `tool_choice` as in a chat; what has no known form stays as it is."""
    if not isinstance(choice, Mapping):
        return choice
    kind = choice.get("type")
    if kind in _KINDS and {"type", "name"} <= set(choice) <= {"type", "name", "namespace"}:
        return {"type": kind, kind: {"name": full_name(choice["name"], choice.get("namespace"))}}
    tools = choice.get("tools")
    if kind == "allowed_tools" and isinstance(tools, list):
        nested = [nested_choice(tool) for tool in tools]
        return {
            "type": "allowed_tools",
            "allowed_tools": {"mode": choice.get("mode", "auto"), "tools": nested},
        }
    return choice


def flat(text: str) -> str:
    """What an error says about the tools of a chat, about those of a response."""
    return (
        text.replace("].function", "]")
        .replace("].custom", "]")
        .replace("'function': {'name': …}", "'name': …")
        .replace("'allowed_tools': {'mode': …, 'tools': [{'type': 'function', 'name': …}]}",
                 "'mode': …, 'tools': [{'type': 'function', 'name': …}]")
        .replace("tool_choice.allowed_tools", "tool_choice.tools")
    )  # fmt: skip


def described(tools: Sequence[Any] | None) -> list[dict[str, Any]]:
    """The tools as the response repeats them, with the fields that OpenAI's clients expect."""
    empty = {"description": None, "parameters": None, "strict": None}
    return [
        {**empty, **tool} if tool["type"] == "function" else dict(tool) for tool in offered(tools)
    ]
