"""The types that the engine's users (server, CLI, LLM) and the engine share.

All other code imports them from this package, not from its files. Deliberately does not know: JAX,
HTTP, models, tokenizers. Standard library only.
"""

from flaxen.protocol.adapters import AdapterInfo, AdapterSource, AdapterWeights
from flaxen.protocol.client import (
    STEP_TOKEN_BOUNDS,
    CacheInfo,
    EngineClient,
    EngineStats,
    ModelInfo,
    StoredPagesStats,
    TokenEvents,
)
from flaxen.protocol.errors import (
    EngineBrokenError,
    EngineBusyError,
    EngineClosedError,
    FieldError,
    ReaderTooSlowError,
    RequestIdInUseError,
    UnknownAdapterError,
)
from flaxen.protocol.events import (
    Finish,
    FinishReason,
    LogprobsMode,
    TokenEvent,
    TokenLogprobs,
)
from flaxen.protocol.inputs import EmbedSpan, Grammar, Pooling
from flaxen.protocol.pooling import PoolingInfo
from flaxen.protocol.requests import MAX_SEED, MAX_TTL_S, Request, SamplingParams
from flaxen.protocol.structured import StructuredOutputs, StructureKind
from flaxen.protocol.top_tokens import TopTokens

__all__ = [
    "MAX_SEED",
    "MAX_TTL_S",
    "STEP_TOKEN_BOUNDS",
    "AdapterInfo",
    "AdapterSource",
    "AdapterWeights",
    "CacheInfo",
    "EmbedSpan",
    "EngineBrokenError",
    "EngineBusyError",
    "EngineClient",
    "EngineClosedError",
    "EngineStats",
    "FieldError",
    "Finish",
    "FinishReason",
    "Grammar",
    "LogprobsMode",
    "ModelInfo",
    "Pooling",
    "PoolingInfo",
    "ReaderTooSlowError",
    "Request",
    "RequestIdInUseError",
    "SamplingParams",
    "StoredPagesStats",
    "StructureKind",
    "StructuredOutputs",
    "TokenEvent",
    "TokenEvents",
    "TokenLogprobs",
    "TopTokens",
    "UnknownAdapterError",
]
