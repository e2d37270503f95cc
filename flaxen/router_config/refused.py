"""Why keys of the public reference are refused, each by its name.

A key that is neither here nor a field of its dataclass is unknown to both; `*` stands for every
key that is no field.
"""

from __future__ import annotations

from collections.abc import Mapping

from flaxen.router.plugins.cache_settings import ResponseCache
from flaxen.router.plugins.guards import Jailbreak, Pii
from flaxen.router.plugins.shadow import ShadowDispatch
from flaxen.router.plugins.tools import Tools
from flaxen.router.selection.algorithms import REFUSED as REFUSED_ALGORITHMS
from flaxen.router.selection.algorithms import Algorithm, Confidence
from flaxen.router.signals.complexity import ComplexityRule
from flaxen.router_config.decision import Decision
from flaxen.router_config.file import File
from flaxen.router_config.models import (
    BackendRef,
    Evaluation,
    Index,
    IndexComponent,
    ProviderModel,
)
from flaxen.router_config.plugins import Memory, Replay
from flaxen.router_config.projections import ScoreInputShape
from flaxen.router_config.reasoning import Reasoning
from flaxen.router_config.routing import ModelBinding
from flaxen.router_config.settings import (
    ApiSettings,
    Authorization,
    CacheStore,
    Integrations,
    LearnedSelection,
    Learning,
    ModelSelection,
    Off,
    ReplayLog,
    RouterSettings,
    Services,
    Tuning,
)
from flaxen.router_config.signal_settings import (
    ClassifierHeads,
    ComplexityHead,
    DomainHead,
    EmbeddingSettings,
    FactCheckHead,
    FeedbackHead,
    HallucinationHeads,
    ModalityHead,
    ModelCatalog,
    Modules,
    PiiHead,
    PreferenceHead,
    PromptGuard,
    SemanticSettings,
)

_OWN_HEADS = "signals are heads on the router's own encoder: train them with `flaxen route train`"
_SEVERAL = "one request goes to one model"
_ANSWERS = "this router checks no answers"
_ONE_MACHINE = "this router keeps its state in its own process and in a file of SQLite"
_CATALOG = "models are described by this file alone: write their cards and records into it"
_OF_V01 = "name a rule of the signal, which has it, in `rule`"
_ENVOY = "there is no proxy before this router"


def _each(reason: str, *keys: str) -> dict[str, str]:
    return dict.fromkeys(keys, reason)


def _head(*keys: str) -> dict[str, str]:
    """The keys with which the reference names the model of a signal."""
    shared = ("model_id", "model_ref", "use_cpu", "max_sequence_length", "backend", "window")
    return _each(_OWN_HEADS, *shared, "use_modernbert", "use_mmbert_32k", "variant", *keys)


REFUSED: Mapping[type, Mapping[str, str]] = {
    File: {
        "setup": "it configures the reference's installer: remove it",
        "evaluation_catalog": _CATALOG,
    },
    ProviderModel: {
        "catalog": _CATALOG,
        "external_model_ids": "use provider_model_id",
        "reliability": f"{_ENVOY}; retries and the circuit breaker are in fallback",
    },
    Reasoning: {"effort_flags": "the effort is one variable; give it as parameter"},
    BackendRef: {"api_version": "put it into base_url"},
    Evaluation: {"benchmarks": "records may name any benchmark; remove the definitions"},
    Index: {
        "missing": "a model must have all components",
        "domains": "weights are those of components",
    },
    IndexComponent: _each(
        "components are metrics of benchmarks, as they were measured",
        "benchmark_profiles",
        "index",
        "normalization",
    ),
    Decision: {
        "action": "requests are rerouted by a decision's modelRefs, and blocked by fast_response",
        "output_contract": _SEVERAL,
        "output_contract_spec": _SEVERAL,
        "candidateIterations": "write the models into modelRefs",
    },
    Algorithm: REFUSED_ALGORITHMS,
    Confidence: _each(
        "confidence is computed from the log-probabilities of the answer",
        "cost_quality_tradeoff",
        "token_filter",
        "verifier_server_url",
        "verifier_timeout_seconds",
    ),
    ScoreInputShape: _each("scores do not read metrics of knowledge bases", "kb", "metric"),
    ModelBinding: {"pair_scorer": _OWN_HEADS},
    ComplexityRule: {"composer": "write its conditions beside the level, in a decision's AND"},
    RouterSettings: {
        "streamed_body": f"{_ENVOY}, and streams are never collected",
    },
    ModelSelection: _each(
        "the algorithm stands in each decision",
        *("method", "enabled", "router_dc", "automix", "hybrid"),
    ),
    LearnedSelection: {
        **_each(_OWN_HEADS, "models_path", "model_type", "embedding_dim"),
        **{name: REFUSED_ALGORITHMS[name] for name in ("kmeans", "svm", "mlp")},
    },
    Tuning: {"progress_gate": "a switch is priced by turns and the cached prefix alone"},
    Learning: {"state_store": _ONE_MACHINE},
    Services: {
        "response_api": "responses are kept by the server that answers them",
        "observability": "metrics are always at /metrics; there is no tracing",
        "ratelimit": "the server bounds its queue instead",
        "management_api": "the routes of the router are the server's, with its keys",
        "startup_status": "ask /health",
    },
    ApiSettings: {
        "embeddings": "embeddings are the server's",
        "batch_classification": "there are no routes of classification",
    },
    Authorization: {"providers": "the keys of models' servers stand in backend_refs"},
    ReplayLog: _each(_ONE_MACHINE, "redis", "postgres", "milvus", "qdrant"),
    CacheStore: {
        **_each(_ONE_MACHINE, "redis", "valkey", "milvus", "qdrant"),
        "embedding_model": _OWN_HEADS,
        "polarity_guard": "similar requests are compared by their embeddings alone",
    },
    Integrations: {"looper": _SEVERAL},
    Off: {"*": "this router does not have it: only `enabled: false` is read"},
    ModelCatalog: {
        **_each(_OWN_HEADS, "bindings", "deployments", "system", "external"),
        "admission": "the scheduler of the engine bounds what signals compute",
    },
    SemanticSettings: _each(
        _OWN_HEADS,
        "qwen3_model_path",
        "gemma_model_path",
        "mmbert_model_path",
        "multimodal_model_path",
        "bert_model_path",
        "use_cpu",
        "endpoint",
    ),
    EmbeddingSettings: _each(
        _OWN_HEADS,
        "full_context",
        "backend",
        "model_type",
        "preload_embeddings",
        "target_dimension",
        "target_layer",
    ),
    Modules: {
        "safety": _OWN_HEADS,
        "prompt_compression": "signals read all of a request; long texts are read in windows",
    },
    PromptGuard: {
        **_head("jailbreak_mapping_path"),
        "on_error": "what a failed signal means is the decisions' on_unknown",
    },
    ClassifierHeads: {"mcp": _OWN_HEADS},
    DomainHead: _head("category_mapping_path", "enabled"),
    PiiHead: {
        **_head("pii_mapping_path", "enabled"),
        "on_error": "what a failed signal means is the decisions' on_unknown",
    },
    PreferenceHead: _each(_OWN_HEADS, "embedding_model"),
    ComplexityHead: _each(_OWN_HEADS, "backend"),
    FactCheckHead: _head(),
    HallucinationHeads: _each(_ANSWERS, "enabled", "detector", "explainer"),
    FeedbackHead: _head("feedback_mapping_path"),
    ModalityHead: _each(_OWN_HEADS, "classifier"),
    Jailbreak: _each(_OF_V01, "enabled", "threshold"),
    Pii: _each(_OF_V01, "enabled", "threshold", "pii_types_allowed"),
    Tools: _each(
        "tools are not chosen by similarity; use allow_tools",
        "semantic_selection",
        "strategy",
        "dynamic_retrieval",
    ),
    ResponseCache: {
        "personalized": "answers that depend on memories are not cached, as there are none",
        **_each("use request_controls", "allow_request_controls", "control_header"),
    },
    ShadowDispatch: {
        "tls_skip_verify": "certificates are always verified",
        "forward_headers": "no header of the client is forwarded to a shadow",
    },
    Replay: _each("calls of tools are part of the body", "max_tool_trace_bytes")
    | _each("calls of tools are part of the body", "max_tool_trace_steps"),
    Memory: {"*": "this router keeps no memories of users: only `enabled: false` is read"},
}
