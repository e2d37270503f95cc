"""A small random adapter for any model: shared by the tests of adapters and exports."""

from __future__ import annotations

import jax
import numpy as np

from flaxen.models.adapters import LORA_TARGETS, LoraConfig, adapter_shapes
from flaxen.models.model import Model
from flaxen.weights.adapters.adapter import Adapter


def random_adapter(
    model: Model,
    *,
    seed: int = 0,
    rank: int = 3,
    targets: tuple[str, ...] = LORA_TARGETS,
    use_rslora: bool = False,
) -> Adapter:
    """An adapter whose effect on the logits is clear."""
    config = LoraConfig(rank=rank, alpha=6.0, targets=targets, use_rslora=use_rslora)
    rng = np.random.default_rng(seed)
    layers = jax.tree.map(
        lambda shape: rng.normal(0, 0.3, shape).astype(np.float32),
        adapter_shapes(model, config)["layers"],
        is_leaf=lambda leaf: isinstance(leaf, tuple) and isinstance(leaf[0], int),
    )
    return Adapter(config=config, layers=layers)
