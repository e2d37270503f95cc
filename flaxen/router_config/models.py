"""The models that a configuration names: where they are served, and what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flaxen.router.checks import (
    Limited,
    check_between,
    check_header,
    check_named,
    check_url,
    limited,
    seconds,
)
from flaxen.router_config.reasoning import Reasoning


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Where the router listens, and the keys that clients must send one of."""

    name: str = ""
    address: str = "127.0.0.1"
    port: int
    timeout: str = "300s"
    api_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_between("port", self.port, 1, 65_535)
        if seconds("timeout", self.timeout) <= 0:
            raise ValueError("timeout must be above 0s")
        if not all(key.strip() for key in self.api_keys):
            raise ValueError("api_keys has a blank key, which anybody could send: remove it")


@dataclass(frozen=True, kw_only=True)
class BackendRef(Limited):
    """One server of a model.

    Attributes:
      endpoint, protocol: HOST:PORT, spoken to over http or https.
      base_url: the same as a URL, with a path; one of the two is given.
      weight: its share among the servers of the model.
      api_key, api_key_env: the key that it wants, or the variable that has it.
      auth_header, auth_prefix: how the key is sent; "" is as the model's api_format has it.
      chat_path: where it answers chats, if not at /v1/chat/completions.
    """

    name: str = ""
    endpoint: str = ""
    protocol: Literal["http", "https"] = "http"
    weight: int = limited(1, 0)
    base_url: str = ""
    provider: str = ""
    auth_header: str = ""
    auth_prefix: str = "Bearer"
    extra_headers: Mapping[str, str] = field(default_factory=dict)
    chat_path: str = ""
    api_key: str = ""
    api_key_env: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.endpoint) == bool(self.base_url):
            raise ValueError(
                "give endpoint (HOST:PORT) or base_url (https://HOST/PATH), one of them"
            )
        if self.api_key and self.api_key_env:
            raise ValueError("give api_key or api_key_env, one of them")
        check_url("base_url" if self.base_url else "endpoint", self.url)
        if self.chat_path and not self.chat_path.startswith("/"):
            raise ValueError(f"chat_path must begin with /, got {self.chat_path!r}")
        for name, value in self.extra_headers.items():
            check_header(name, value)

    @property
    def url(self) -> str:
        """Where its API is."""
        return self.base_url or f"{self.protocol}://{self.endpoint}"


@dataclass(frozen=True, kw_only=True)
class Pricing(Limited):
    """What a million tokens of a model cost."""

    currency: str = "USD"
    prompt_per_1m: float = limited(0.0, 0)
    completion_per_1m: float = limited(0.0, 0)
    cached_input_per_1m: float | None = limited(None, 0)
    cache_write_per_1m: float | None = limited(None, 0)


@dataclass(frozen=True, kw_only=True)
class ProviderModel:
    """A model that can be routed to, by the router's name of it, and its servers.

    Without backend_refs it must be served in this process (`flaxen serve --router`). With the
    api_format anthropic its servers know the Messages API alone.
    """

    name: str
    provider_model_id: str = ""
    backend_refs: tuple[BackendRef, ...] = ()
    pricing: Pricing | None = None
    reasoning: Reasoning | None = None
    api_format: Literal["", "openai", "anthropic"] = ""

    def __post_init__(self) -> None:
        check_named("name", self.name)
        if self.backend_refs and not any(ref.weight for ref in self.backend_refs):
            raise ValueError("all backend_refs have weight 0, so that none is ever used")

    @property
    def api(self) -> str:
        """The only API that its servers know; "" for no bound."""
        return "messages" if self.api_format == "anthropic" else ""


@dataclass(frozen=True, kw_only=True)
class ProviderDefaults:
    """The model of requests that no decision is for, and how much models reason."""

    model: str = ""
    reasoning_effort: str = ""


@dataclass(frozen=True, kw_only=True)
class Providers:
    """The models that can be routed to."""

    defaults: ProviderDefaults = ProviderDefaults()
    models: tuple[ProviderModel, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Lora:
    """An adapter of a model."""

    name: str
    description: str = ""

    def __post_init__(self) -> None:
        check_named("name", self.name)


@dataclass(frozen=True, kw_only=True)
class Modalities:
    """What a model takes and gives: text, image, audio, video."""

    input: tuple[str, ...] = ()
    output: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ModelCard(Limited):
    """What is known of a model: limits, capabilities, adapters. The rest is for readers."""

    name: str
    context_window_size: int | None = limited(None, 1)
    max_output_tokens: int | None = limited(None, 1)
    capabilities: tuple[str, ...] = ()
    loras: tuple[Lora, ...] = ()
    modalities: Modalities = Modalities()
    modality: str = ""
    param_size: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    display_name: str = ""
    publisher: str = ""
    family: str = ""
    revision: str = ""
    released_at: str = ""
    knowledge_cutoff: str = ""
    lifecycle: str = ""
    presentation: Mapping[str, Any] = field(default_factory=dict)
    distribution: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_named("name", self.name)


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """What a model scored in a benchmark."""

    model: str
    benchmark: str
    benchmark_profile: str = ""
    reasoning_effort: str = ""
    metrics: Mapping[str, float]
    source: str = ""
    measured_at: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class IndexComponent:
    """A benchmark's metric in an index, and its weight there."""

    benchmark: str
    metric: str
    benchmark_profile: str = ""
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Index:
    """A model's quality: the weighted mean of metrics, all of which it must have."""

    id: str
    components: tuple[IndexComponent, ...]
    display_name: str = ""
    description: str = ""
    methodology: str = ""
    aggregation: Literal["weighted_mean"] = "weighted_mean"
    scale: tuple[float, ...] = (0.0, 100.0)

    def __post_init__(self) -> None:
        check_named("id", self.id)
        if sum(component.weight for component in self.components) <= 0:
            raise ValueError("components must have weights that add up to more than 0")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Evidence of the models' quality, for the multi_factor algorithm."""

    records: tuple[EvaluationRecord, ...] = ()
    indices: tuple[Index, ...] = ()
