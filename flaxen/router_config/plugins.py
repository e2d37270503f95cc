"""What a decision does to its requests and answers: plugins by type, each with a configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flaxen.router.plugins.cache_settings import ResponseCache
from flaxen.router.plugins.fast_response import FastResponse
from flaxen.router.plugins.guards import Jailbreak, Pii
from flaxen.router.plugins.header_mutation import HeaderMutation
from flaxen.router.plugins.request_params import RequestParams
from flaxen.router.plugins.shadow import ShadowDispatch
from flaxen.router.plugins.system_prompt import SystemPrompt
from flaxen.router.plugins.tools import Tools


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What of a decision's requests goes to the replay log."""

    enabled: bool = True
    max_records: int = 10_000
    capture_request_body: bool = False
    capture_response_body: bool = False
    max_body_bytes: int = 4_096


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memories of users, which this router has not: only `enabled: false` is read."""

    enabled: bool = False

    def __post_init__(self) -> None:
        if self.enabled:
            raise ValueError("this router keeps no memories of users: remove the plugin")


PLUGINS: dict[str, type[Any]] = {
    "fast_response": FastResponse,
    "header_mutation": HeaderMutation,
    "jailbreak": Jailbreak,
    "memory": Memory,
    "pii": Pii,
    "request_params": RequestParams,
    "response_cache": ResponseCache,
    "router_replay": Replay,
    "shadow_dispatch": ShadowDispatch,
    "system_prompt": SystemPrompt,
    "tools": Tools,
}
REFUSED_PLUGINS = {
    "context_compression": "it rewrites the client's messages; give long requests a larger model",
    "hallucination": "this router checks no answers",
    "prompt_cache": "engines cache prefixes by themselves",
    "rag": "this router retrieves no documents; put them into the request",
    "response_jailbreak": "this router reads no answers; decide by a jailbreak signal instead",
    "tool_selection": "tools are not chosen by similarity; use the plugin tools with a list",
}
# Of PLUGINS, those that the reference does not have.
OWN_PLUGINS = {"jailbreak", "pii"}


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A plugin of a decision: its type, and the dataclass of PLUGINS that configures it."""

    type: str
    configuration: Any = field(default=None)
