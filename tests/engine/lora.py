"""Random adapters of the tiny model, and engines that serve them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from flaxen.models.adapters import LORA_TARGETS, LoraConfig, adapter_shapes
from flaxen.models.model import Model
from flaxen.protocol import Request
from flaxen.scheduling.config import EngineConfig, LoraLimits
from flaxen.weights.adapters.adapter import Adapter
from tests.engine.tiny import MODEL, ONE_SHAPE, request

LORA = LoraLimits(max_loras=3, max_lora_rank=8)
LORA_SHAPE = replace(ONE_SHAPE, lora=LORA)


def make_adapter(
    seed: int,
    rank: int = 8,
    *,
    targets: tuple[str, ...] = LORA_TARGETS,
    alpha: float = 16.0,
    use_rslora: bool = False,
    model: Model = MODEL,
) -> Adapter:
    """An adapter strong enough to change what is said. b is not zeros, as it is before training."""
    config = LoraConfig(rank=rank, alpha=alpha, targets=targets, use_rslora=use_rslora)
    rng = np.random.default_rng(1000 + seed)

    def random(shape: tuple[int, int]) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.6 / np.sqrt(shape[0])).astype(np.float32)

    layers = tuple(
        {
            name: {part: random(shape) for part, shape in parts.items()}
            for name, parts in layer.items()
        }
        for layer in adapter_shapes(model, config)["layers"]
    )
    return Adapter(config=config, layers=layers)


def adapted(name: str, prompt: list[int], adapter: str | None, **sampling: Any) -> Request:
    """A request for an adapter, greedy unless told."""
    return replace(request(name, prompt, **sampling), adapter=adapter)


def lora_config(max_loras: int = 3, **changes: Any) -> EngineConfig:
    return replace(ONE_SHAPE, lora=replace(LORA, max_loras=max_loras), **changes)
