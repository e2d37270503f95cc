"""What all recipes share: `global` of the file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from flaxen.router.checks import Limited, limited
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
class Tuning(Limited):
    """When a session may change its model: after how many turns or idle seconds, and for how much
    better a one."""

    idle_timeout_seconds: int = limited(300, 0)
    min_turns_before_switch: int = limited(1, 0)
    switch_margin: float = limited(0.05, 0)
    stability_weight: float = limited(1.0, 0)


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
class Neighbours(Limited):
    """What the algorithm knn compares requests to.

    Attributes:
      k: how many of the nearest count.
      pretrained_path: a file of answered requests, as the reference's benchmark writes it.
    """

    k: int = limited(5, 1)
    pretrained_path: str = ""


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
class RoutingPreview(Limited):
    """Limits of `/api/v1/routing/preview`."""

    request_timeout_seconds: int = limited(120, 1, 3_600)
    max_concurrency: int = limited(16, 1)


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
class ReplayLog(Limited):
    """The log of decisions. Whichever store_backend is named, it is a file of SQLite."""

    enabled: bool = False
    store_backend: Literal["memory", "redis", "postgres", "milvus", "qdrant", "sqlite"] = "memory"
    ttl_seconds: int = limited(2_592_000, 0)
    async_writes: bool = False


@dataclass(frozen=True, kw_only=True)
class Services:
    """What the router offers beside answers."""

    api: ApiSettings = ApiSettings()
    authz: Authorization = Authorization()
    router_replay: ReplayLog = ReplayLog()


@dataclass(frozen=True, kw_only=True)
class CacheStore(Limited):
    """The store of the plugin response_cache, in memory."""

    enabled: bool = True
    backend_type: Literal["memory"] = "memory"
    similarity_threshold: float = limited(0.8, 0, 1)
    max_entries: int = limited(1_000, 1)
    ttl_seconds: int = limited(3_600, 0)
    eviction_policy: Literal["fifo", "lru"] = "fifo"


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
