"""The words that the front half (server, CLI, LLM) and the engine speak to each other.

Everybody imports them from here; which file holds a word is this package's own business.
Deliberately does not know: JAX, HTTP, models, tokenizers. Standard library only.
"""

from flaxen.protocol.adapters import AdapterInfo, AdapterSource, AdapterWeights
from flaxen.protocol.client import EngineClient, EngineStats, ModelInfo, TokenEvents
from flaxen.protocol.errors import (
    EngineBrokenError,
    EngineBusyError,
    EngineClosedError,
    FieldError,
    ReaderTooSlowError,
    RequestIdInUseError,
    UnknownAdapterError,
)
from flaxen.protocol.events import Finish, FinishReason, TokenEvent, TokenLogprobs
from flaxen.protocol.inputs import Grammar
from flaxen.protocol.requests import MAX_SEED, Request, SamplingParams

__all__ = [
    "MAX_SEED",
    "AdapterInfo",
    "AdapterSource",
    "AdapterWeights",
    "EngineBrokenError",
    "EngineBusyError",
    "EngineClient",
    "EngineClosedError",
    "EngineStats",
    "FieldError",
    "Finish",
    "FinishReason",
    "Grammar",
    "ModelInfo",
    "ReaderTooSlowError",
    "Request",
    "RequestIdInUseError",
    "SamplingParams",
    "TokenEvent",
    "TokenEvents",
    "TokenLogprobs",
    "UnknownAdapterError",
]
