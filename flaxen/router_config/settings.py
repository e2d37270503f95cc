"""What all recipes share: `global` of the file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from flaxen.router.checks import check_at_least, check_between
from flaxen.router.signals.settings import Identity
from flaxen.router_config.decision import CandidateSet
from flaxen.router_config.fallback import Fallback
from flaxen.router_config.signal_settings import ModelCatalog

Strategy = Literal["", "priority", "confidence"]


@dataclass(frozen=True, kw_only=True)
class SkipProcessing:
    """Whether a client may ask, by `x-vsr-skip-processing`, not to be routed."""

    enabled: bool = False


@dataclass(frozen=True, kw_only=True)
class LearningAdaptation:
    """Learning from answers, which this router does not do: only `enabled: false` is read."""

    enabled: bool = False
    candidate_set: CandidateSet = ""
    strategy: Literal["", "routing_sampling"] = ""

    def __post_init__(self) -> None:
        if self.enabled:
            raise ValueError("this router does not learn while it serves: write enabled: false")


@dataclass(frozen=True, kw_only=True)
class IdentityHeaders:
    """The headers of a request that name its session and its conversation."""

    session: str = "x-session-id"
    conversation: str = "x-conversation-id"


@dataclass(frozen=True, kw_only=True)
class LearningIdentity:
    """What a session is known by."""

    headers: IdentityHeaders = IdentityHeaders()


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """When a session may change its model: after how many turns or idle seconds, and for how much
    better a one."""

    idle_timeout_seconds: int = 300
    min_turns_before_switch: int = 1
    switch_margin: float = 0.05
    stability_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("idle_timeout_seconds", "min_turns_before_switch", "switch_margin"):
            check_at_least(name, getattr(self, name), 0)
        check_at_least("stability_weight", self.stability_weight, 0)


@dataclass(frozen=True, kw_only=True)
class LearningProtection:
    """Whether a conversation, or a session of several, keeps its model."""

    enabled: bool = False
    scope: Literal["", "conversation", "session"] = "conversation"
    identity: LearningIdentity = LearningIdentity()
    tuning: Tuning = Tuning()


@dataclass(frozen=True, kw_only=True)
class Learning:
    """What the router keeps of sessions."""

    enabled: bool = False
    adaptation: LearningAdaptation = LearningAdaptation()
    protection: LearningProtection = LearningProtection()


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """What the algorithm knn compares requests to.

    Attributes:
      k: how many of the nearest count.
      pretrained_path: a file of answered requests, as the reference's benchmark writes it.
    """

    k: int = 5
    pretrained_path: str = ""

    def __post_init__(self) -> None:
        check_at_least("k", self.k, 1)


@dataclass(frozen=True, kw_only=True)
class LearnedSelection:
    """Algorithms that read a file."""

    knn: Neighbours = Neighbours()


@dataclass(frozen=True, kw_only=True)
class ModelSelection:
    """What algorithms share; which one chooses stands in each decision."""

    ml: LearnedSelection = LearnedSelection()


@dataclass(frozen=True, kw_only=True)
class RouterSettings:
    """How requests reach a recipe.

    Attributes:
      auto_model_name, auto_model_names: the models that stand for the default recipe; a list of
        names replaces all others.
      clear_route_cache: without effect, as there is no proxy before this router.
    """

    config_source: Literal["file"] = "file"
    strategy: Strategy = ""
    auto_model_name: str = "MoM"
    auto_model_names: tuple[str, ...] = ()
    include_config_models_in_list: bool = False
    clear_route_cache: bool = True
    skip_processing: SkipProcessing = SkipProcessing()
    learning: Learning = Learning()
    model_selection: ModelSelection = ModelSelection()
    fallback: Fallback | None = None

    @property
    def auto_names(self) -> tuple[str, ...]:
        """All names of the default recipe."""
        return self.auto_model_names or ("vllm-sr/auto", "auto", self.auto_model_name)


@dataclass(frozen=True, kw_only=True)
class RoutingPreview:
    """Limits of `/api/v1/routing/preview`."""

    request_timeout_seconds: int = 120
    max_concurrency: int = 16

    def __post_init__(self) -> None:
        check_between("request_timeout_seconds", self.request_timeout_seconds, 1, 3_600)
        check_at_least("max_concurrency", self.max_concurrency, 1)


@dataclass(frozen=True, kw_only=True)
class ApiSettings:
    """The routes beside those of models."""

    routing_preview: RoutingPreview = RoutingPreview()


@dataclass(frozen=True, kw_only=True)
class IdentityShape:
    """The headers that name the user and their groups."""

    user_id_header: str = Identity.user_id_header
    user_groups_header: str = Identity.user_groups_header


@dataclass(frozen=True, kw_only=True)
class Authorization:
    """Who asks, and whether requests of nobody pass."""

    fail_open: bool = False
    identity: IdentityShape = IdentityShape()


@dataclass(frozen=True, kw_only=True)
class ReplayLog:
    """The log of decisions. Whichever store_backend is named, it is a file of SQLite."""

    enabled: bool = False
    store_backend: Literal["memory", "redis", "postgres", "milvus", "qdrant", "sqlite"] = "memory"
    ttl_seconds: int = 2_592_000
    async_writes: bool = False

    def __post_init__(self) -> None:
        check_at_least("ttl_seconds", self.ttl_seconds, 0)


@dataclass(frozen=True, kw_only=True)
class Services:
    """What the router offers beside answers."""

    api: ApiSettings = ApiSettings()
    authz: Authorization = Authorization()
    router_replay: ReplayLog = ReplayLog()


@dataclass(frozen=True, kw_only=True)
class CacheStore:
    """The store of the plugin response_cache, in memory."""

    enabled: bool = True
    backend_type: Literal["memory"] = "memory"
    similarity_threshold: float = 0.8
    max_entries: int = 1_000
    ttl_seconds: int = 3_600
    eviction_policy: Literal["fifo", "lru"] = "fifo"

    def __post_init__(self) -> None:
        check_between("similarity_threshold", self.similarity_threshold, 0, 1)
        check_at_least("max_entries", self.max_entries, 1)
        check_at_least("ttl_seconds", self.ttl_seconds, 0)


@dataclass(frozen=True, kw_only=True)
class Off:
    """A part of the reference that this router has not: only `enabled: false` is read."""

    enabled: bool = False

    def __post_init__(self) -> None:
        if self.enabled:
            raise ValueError("this router does not have it: write enabled: false, or remove it")


@dataclass(frozen=True, kw_only=True)
class Stores:
    """What is kept between requests."""

    response_cache: CacheStore = CacheStore()
    memory: Off = Off()
    vector_store: Off = Off()


@dataclass(frozen=True, kw_only=True)
class Integrations:
    """Other programs."""

    tools: Off = Off()


@dataclass(frozen=True, kw_only=True)
class Global:
    """What all recipes share."""

    router: RouterSettings = RouterSettings()
    services: Services = Services()
    stores: Stores = Stores()
    integrations: Integrations = Integrations()
    model_catalog: ModelCatalog = field(default_factory=ModelCatalog)
