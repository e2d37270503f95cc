"""The plugin request_params."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from flaxen.router.checks import Limited, check_between, limited
from flaxen.router.plugins.reply import Json

# The fields that limit an answer's tokens; the first is set where there is none.
_LIMITS = {
    "chat": ("max_tokens", "max_completion_tokens"),
    "completions": ("max_tokens",),
    "responses": ("max_output_tokens",),
    "messages": ("max_tokens",),
    "embeddings": (),
}
_NEEDED = {"model", "messages", "input", "prompt", "stream"}
_SAMPLED = "frequency_penalty logit_bias n presence_penalty seed stop stream_options top_p user"
_OF_CHAT = f"""{_SAMPLED} audio function_call functions logprobs max_completion_tokens max_tokens
    metadata modalities parallel_tool_calls prediction prompt_cache_key reasoning_effort
    response_format safety_identifier service_tier store temperature tool_choice tools top_logprobs
    verbosity web_search_options"""
# The fields of each API as its maker documents them, for strip_unknown.
_KNOWN = {
    "chat": _OF_CHAT,
    "completions": f"{_SAMPLED} best_of echo logprobs max_tokens suffix temperature",
    "responses": """background conversation include instructions max_output_tokens max_tool_calls
        metadata parallel_tool_calls previous_response_id prompt prompt_cache_key reasoning
        safety_identifier service_tier store stream_options temperature text tool_choice tools
        top_logprobs top_p truncation user""",
    "messages": """container context_management max_tokens mcp_servers metadata output_config
        service_tier stop_sequences system temperature thinking tool_choice tools top_k top_p""",
    "embeddings": "dimensions encoding_format user",
}


@dataclass(frozen=True, kw_only=True)
class RequestParams(Limited):
    """Limits and removes parameters of the request; default_max_tokens is for requests that give no
    limit of the answer, and "auto" leaves that to the model's server."""

    default_max_tokens: int | Literal["auto"] | None = None
    blocked_params: tuple[str, ...] = ()
    max_tokens_limit: int | None = limited(None, 1)
    max_n: int | None = limited(None, 1)
    strip_unknown: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.default_max_tokens, int):
            check_between("default_max_tokens", self.default_max_tokens, 1)
        if needed := _NEEDED.intersection(self.blocked_params):
            raise ValueError(f"blocked_params has {min(needed)!r}, without which none is answered")


def with_params(body: Json, api: str, plugin: RequestParams) -> Json:
    """A body within the plugin's limits. A limit holds for a request that gives none, too."""
    known = _NEEDED.union(_KNOWN[api].split())
    changed = {
        name: value
        for name, value in body.items()
        if name not in plugin.blocked_params and (name in known or not plugin.strip_unknown)
    }
    for name in ("n", "best_of"):
        _cap(changed, name, plugin.max_n)
    limits = _LIMITS[api]
    for name in limits:
        _cap(changed, name, plugin.max_tokens_limit)
    if limits and all(changed.get(name) is None for name in limits):
        default, most = plugin.default_max_tokens, plugin.max_tokens_limit
        numbers = [number for number in (default, most) if isinstance(number, int)]
        if numbers:
            changed[limits[0]] = min(numbers)
    return changed


def _cap(body: dict[str, Any], name: str, most: int | None) -> None:
    """Lowers a field to the most; what is no whole number goes, as in the reference."""
    value = body.get(name)
    if most is None or value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        del body[name]
    elif value > most:
        body[name] = most
