"""flaxen: define a model once in JAX, then train it and serve it through the same compiled forward.

Knows: the names that users import. Deliberately does not import what is behind them before they
are asked for, so that `import flaxen` is instant and its host-side rooms stay free of JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flaxen.async_llm import AsyncLLM
    from flaxen.bridges.flax.linen import from_linen
    from flaxen.bridges.flax.nnx import from_nnx
    from flaxen.bridges.function import from_function
    from flaxen.bridges.torch.attend import attend_torch
    from flaxen.bridges.torch.bridge import from_torch
    from flaxen.bridges.torch.transformers import from_transformers
    from flaxen.definitions.definition import Definition
    from flaxen.evaluator import evaluate
    from flaxen.llm import LLM
    from flaxen.loading import load, load_tokenizer
    from flaxen.models.adapters import lora_targets
    from flaxen.models.attention import attend
    from flaxen.models.encode import encode
    from flaxen.models.logits import logits
    from flaxen.models.model import Model
    from flaxen.protocol import SamplingParams, StructuredOutputs
    from flaxen.trainer import train

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "AsyncLLM",
    "Definition",
    "Model",
    "SamplingParams",
    "StructuredOutputs",
    "__version__",
    "attend",
    "attend_torch",
    "encode",
    "evaluate",
    "from_function",
    "from_linen",
    "from_nnx",
    "from_torch",
    "from_transformers",
    "load",
    "load_tokenizer",
    "logits",
    "lora_targets",
    "train",
]

_HOMES = {
    "LLM": "flaxen.llm",
    "AsyncLLM": "flaxen.async_llm",
    "SamplingParams": "flaxen.protocol",
    "StructuredOutputs": "flaxen.protocol",
    "load": "flaxen.loading",
    "load_tokenizer": "flaxen.loading",
    "encode": "flaxen.models.encode",
    "logits": "flaxen.models.logits",
    "attend": "flaxen.models.attention",
    "attend_torch": "flaxen.bridges.torch.attend",
    "lora_targets": "flaxen.models.adapters",
    "train": "flaxen.trainer",
    "evaluate": "flaxen.evaluator",
    "Definition": "flaxen.definitions.definition",
    "Model": "flaxen.models.model",
    "from_function": "flaxen.bridges.function",
    "from_linen": "flaxen.bridges.flax.linen",
    "from_nnx": "flaxen.bridges.flax.nnx",
    "from_torch": "flaxen.bridges.torch.bridge",
    "from_transformers": "flaxen.bridges.torch.transformers",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flaxen' has no attribute {name!r}: it has {__all__}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
