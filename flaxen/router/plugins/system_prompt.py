"""The plugin system_prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flaxen.router.plugins.reply import Json, PluginError

_SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True, kw_only=True)
class SystemPrompt:
    """Puts a text before the system prompt (insert), or in its place (replace)."""

    system_prompt: str
    enabled: bool = True
    mode: Literal["insert", "replace"] = "insert"


def with_system_prompt(body: Json, api: str, plugin: SystemPrompt) -> Json:
    """A body with the text. A plain prompt, which has no system prompt, begins with it in both
    modes. Plain texts to embed stay as they are.

    Raises:
      PluginError: the prompt is token ids, which no text can stand before.
    """
    if api == "completions":
        return {**body, "prompt": _before(body.get("prompt"), plugin.system_prompt)}
    if api in ("messages", "responses"):
        name = "system" if api == "messages" else "instructions"
        return {**body, name: _joined(plugin, body.get(name))}
    messages = body.get("messages")
    if messages is None:
        return body
    first = messages[0] if messages else {}
    if first.get("role") in _SYSTEM_ROLES:
        changed = {**first, "content": _joined(plugin, first.get("content"))}
        return {**body, "messages": [changed, *messages[1:]]}
    system = {"role": "system", "content": plugin.system_prompt}
    return {**body, "messages": [system, *messages]}


def _joined(plugin: SystemPrompt, there: Any) -> Any:
    """The system prompt of a request, a text or a list of parts, with the plugin's."""
    if plugin.mode == "replace" or not there:
        return plugin.system_prompt
    if isinstance(there, str):
        return f"{plugin.system_prompt}\n\n{there}"
    return [{"type": "text", "text": f"{plugin.system_prompt}\n\n"}, *there]


def _before(prompt: Any, text: str) -> Any:
    if isinstance(prompt, str):
        return f"{text}\n\n{prompt}"
    if isinstance(prompt, list) and all(isinstance(each, str) for each in prompt):
        return [f"{text}\n\n{each}" for each in prompt]
    raise PluginError(
        "prompt is token ids, and the decision puts a text before it: send the prompt as a text"
    )


def has_system_prompt(body: Mapping[str, Any], api: str) -> bool:
    """Whether a body has a place for a system prompt: all but plain texts to embed."""
    return api != "embeddings" or body.get("messages") is not None
