"""The plugin tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flaxen.router.plugins.reply import Json

_CALLING = ("tool_choice", "function_call", "parallel_tool_calls", "web_search_options")


@dataclass(frozen=True, kw_only=True)
class Tools:
    """Which of the client's tools the model sees: all (passthrough), those of the lists (filtered),
    or none, then perhaps without earlier calls in the messages."""

    enabled: bool = True
    mode: Literal["passthrough", "filtered", "none"] = "passthrough"
    allow_tools: tuple[str, ...] = ()
    block_tools: tuple[str, ...] = ()
    strip_tool_history: bool = False

    def __post_init__(self) -> None:
        if (self.mode == "filtered") != bool(self.allow_tools or self.block_tools):
            raise ValueError(
                "allow_tools and block_tools belong to mode filtered, which needs some"
            )
        if self.strip_tool_history and self.mode != "none":
            raise ValueError("strip_tool_history belongs to mode none")

    def keeps(self, name: str) -> bool:
        """Whether the model sees a tool of this name."""
        if self.mode == "passthrough":
            return True
        is_allowed = name in self.allow_tools or not self.allow_tools
        return self.mode == "filtered" and is_allowed and name not in self.block_tools


_WORDS = ("auto", "any", "none")  # Anthropic's choices that name no tool
_BLOCKS = ("tool_use", "tool_result")


def with_tools(body: Json, plugin: Tools) -> Json:
    """A body with the tools that the plugin keeps; tool_choice goes with the tool that it names."""
    if plugin.mode == "passthrough":
        return body
    changed = dict(body)
    for name in ("tools", "functions"):
        if isinstance(changed.get(name), list):
            changed[name] = [each for each in changed[name] if plugin.keeps(_name(each))]
    if not changed.get("tools") and not changed.get("functions"):
        for name in ("tools", "functions", *_CALLING):
            changed.pop(name, None)
    for name in ("tool_choice", "function_call"):
        if isinstance(changed.get(name), Mapping):
            choice = _choice(changed.pop(name), plugin)
            changed |= {name: choice} if choice else {}
    if plugin.strip_tool_history:
        for name in ("messages", "input"):
            if isinstance(changed.get(name), list):
                kept = [_without_calls(each) for each in changed[name]]
                changed[name] = [each for each in kept if each is not None]
    return changed


def _name(tool: Any) -> str:
    """The name of a tool, or of what names one, in any of the APIs; else its type."""
    for kind in ("function", "custom"):
        if isinstance(tool.get(kind), Mapping):
            return str(tool[kind].get("name"))
    return str(tool.get("name") or tool.get("type"))


def _choice(choice: Json, plugin: Tools) -> Json | None:
    """A choice of tools without those that are gone; None if it names nothing that is left."""
    if choice.get("type") == "allowed_tools":
        inner = choice.get("allowed_tools")
        holder = inner if isinstance(inner, Mapping) else choice
        left = [each for each in _objects(holder.get("tools")) if plugin.keeps(_name(each))]
        changed = {**holder, "tools": left}
        if not left:
            return None
        return changed if holder is choice else {**choice, "allowed_tools": changed}
    is_word = choice.get("type") in _WORDS
    return choice if is_word or plugin.keeps(_name(choice)) else None


def _without_calls(message: Any) -> Any:
    """A message or an item of input without calls of tools and their results; None if nothing of it
    is left."""
    if not isinstance(message, Mapping):
        return message  # a text to embed
    kind = _type(message)
    if message.get("role") in ("tool", "function") or kind.endswith(("_call", "_call_output")):
        return None
    left = {k: v for k, v in message.items() if k not in ("tool_calls", "function_call")}
    content = left.get("content")
    if isinstance(content, list):
        left["content"] = [each for each in content if _type(each) not in _BLOCKS]
    is_changed = left != dict(message)
    return None if is_changed and not left.get("content") else left


def _objects(value: Any) -> list[Json]:
    """The objects of a list that nobody has checked."""
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def _type(part: Any) -> str:
    """The type of an item or a part; "" of a plain text."""
    return str(part.get("type", "")) if isinstance(part, Mapping) else ""
