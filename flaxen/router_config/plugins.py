"""What a decision does to its requests and answers: plugins by type, each with a configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from flaxen.router.checks import check_at_least, check_between, check_named


@dataclass(frozen=True, kw_only=True)
class FastResponse:
    """Answers with a fixed text, without a model."""

    message: str

    def __post_init__(self) -> None:
        check_named("message", self.message)


@dataclass(frozen=True, kw_only=True)
class SystemPrompt:
    """Puts a text before the system prompt (insert), or in its place (replace)."""

    system_prompt: str
    enabled: bool = True
    mode: Literal["insert", "replace"] = "insert"


@dataclass(frozen=True, kw_only=True)
class Header:
    """A header of the request to the model's server."""

    name: str
    value: str = ""

    def __post_init__(self) -> None:
        check_named("name", self.name)


@dataclass(frozen=True, kw_only=True)
class HeaderMutation:
    """Sets (add, update) and removes headers of the request to the model's server."""

    add: tuple[Header, ...] = ()
    update: tuple[Header, ...] = ()
    delete: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RequestParams:
    """Limits and removes parameters of the request; default_max_tokens is for requests that give no
    limit of the answer."""

    default_max_tokens: int | Literal["auto"] | None = None
    blocked_params: tuple[str, ...] = ()
    max_tokens_limit: int | None = None
    max_n: int | None = None
    strip_unknown: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.default_max_tokens, int):
            check_at_least("default_max_tokens", self.default_max_tokens, 1)
        check_at_least("max_tokens_limit", self.max_tokens_limit, 1)
        check_at_least("max_n", self.max_n, 1)


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


@dataclass(frozen=True, kw_only=True)
class SemanticCache:
    """How similar a request must be to an earlier one."""

    similarity_threshold: float | None = None

    def __post_init__(self) -> None:
        check_between("similarity_threshold", self.similarity_threshold, 0, 1)


@dataclass(frozen=True, kw_only=True)
class CacheControls:
    """What clients may ask of the cache, by a header."""

    enabled: bool = False
    header: str = "x-vsr-cache-control"
    allowed: tuple[str, ...] = ("no-cache", "no-store", "bypass")
    max_ttl_seconds: int | None = None


@dataclass(frozen=True, kw_only=True)
class CacheRevision:
    """Names of versions; entries of others are not found."""

    cache_epoch: str = ""
    model_revision: str = ""
    prompt_revision: str = ""
    policy_revision: str = ""


@dataclass(frozen=True, kw_only=True)
class ResponseCache:
    """Answers from earlier answers to the same or similar requests."""

    enabled: bool = True
    mode: Literal["semantic", "exact", "exact_then_semantic"] = "semantic"
    scope: Literal["user", "team", "tenant", "global"] = "user"
    semantic: SemanticCache = SemanticCache()
    ttl_seconds: int | None = None
    request_controls: CacheControls = CacheControls()
    revision: CacheRevision = CacheRevision()
    similarity_threshold: float | None = None  # the older place of semantic.similarity_threshold

    def __post_init__(self) -> None:
        check_at_least("ttl_seconds", self.ttl_seconds, 0)
        check_between("similarity_threshold", self.similarity_threshold, 0, 1)
        if None not in (self.similarity_threshold, self.semantic.similarity_threshold):
            raise ValueError("similarity_threshold stands twice: keep the one in semantic")


@dataclass(frozen=True, kw_only=True)
class ShadowDispatch:
    """Sends a share of the requests to another model as well; its answers only go to the log."""

    enabled: bool
    model: str = ""
    sample_rate: float = 1.0
    max_concurrency: int = 2
    max_queue_depth: int = 8
    timeout_seconds: int = 30
    max_response_bytes: int = 1_048_576
    max_retries: int = 0
    capture_response_body: bool = False
    max_capture_bytes: int = 4_096

    def __post_init__(self) -> None:
        check_between("sample_rate", self.sample_rate, 0, 1)
        check_between("max_retries", self.max_retries, 0, 3)
        for name in ("max_concurrency", "timeout_seconds", "max_response_bytes"):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("max_queue_depth", self.max_queue_depth, 0)
        check_at_least("max_capture_bytes", self.max_capture_bytes, 0)
        if self.enabled:
            check_named("model", self.model)


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
    "memory": Memory,
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
# Of v0.1.
OLD_PLUGINS = {
    "jailbreak": "block by a decision with a jailbreak condition and the plugin fast_response",
    "pii": "block or reroute by a decision with a pii condition",
}


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A plugin of a decision: its type, and the dataclass of PLUGINS that configures it."""

    type: str
    configuration: Any = field(default=None)
