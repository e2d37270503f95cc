"""LoRA adapters of a model: their trees, and how they are put beside its weights.

Adapters come in stacks: those that train at once, or the slots of those that are served.
Deliberately does not know: files, names, optimizers, which row wants which adapter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax

from flaxen.kernels.linear.lora import LoraWeight
from flaxen.models.model import Model, Params

# {"layers": ({"wq": {"a": [n, I, R], "b": [n, R, O]}, ...}, ...)}, one dict a layer; float32
Adapters = Any

LORA_TARGETS = ("wq", "wk", "wv", "wo", "w_gate", "w_up", "w_down")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """What an adapter adapts, and how strongly.

    Raises:
      ValueError: a rank or alpha that is not above 0, or a target that no layer has.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = LORA_TARGETS
    use_rslora: bool = False  # https://arxiv.org/abs/2312.03732

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"a LoRA rank must be at least 1, got {self.rank}")
        if not self.alpha > 0:
            raise ValueError(f"LoRA's alpha must be above 0, got {self.alpha}")
        unknown = [name for name in self.targets if name not in LORA_TARGETS]
        if unknown or not self.targets:
            raise ValueError(
                f"LoRA targets must be some of {', '.join(LORA_TARGETS)}, got {self.targets}"
            )

    @property
    def scale(self) -> float:
        """The factor on a @ b."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)


def has_layers(model: Model) -> bool:
    """Whether a model's parameters have the layers that adapters go by: definitions have not."""
    return isinstance(model.param_specs, dict) and "layers" in model.param_specs


def adapter_shapes(
    model: Model, config: LoraConfig
) -> dict[str, tuple[dict[str, dict[str, tuple[int, int]]], ...]]:
    """The shapes of one adapter outside a stack: a tree of (I, R) and (R, O).

    Raises:
      ValueError: the model has no such target, or is a definition.
    """
    if not has_layers(model):
        raise ValueError(
            "adapters are not supported for definitions in Flax, PyTorch or plain JAX: train all "
            "of their parameters"
        )
    layers = []
    for layer in model.param_specs["layers"]:
        missing = [name for name in config.targets if name not in layer]
        if missing:
            raise ValueError(f"the model's layers have no {', '.join(missing)} to adapt")
        shapes = {name: layer[name].shape for name in config.targets}
        layers.append(
            {
                name: {"a": (shape[0], config.rank), "b": (config.rank, shape[1])}
                for name, shape in shapes.items()
            }
        )
    return {"layers": tuple(layers)}


def with_adapters(
    params: Params,
    adapters: Adapters,
    scales: jax.Array,
    ids: jax.Array,
    *,
    key: jax.Array | None = None,
    dropout: float = 0.0,
) -> Params:
    """The parameters with adapters beside the weights that they adapt.

    Args:
      params: the model's.
      adapters: a stack of n.
      scales: [n] float32.
      ids: int32, the adapter of each token, of the tokens' shape; -1 for none.
      key: for dropout.
      dropout: the probability that an input of an adapter is dropped.

    Returns:
      A tree for `Model.forward` and `Model.unembed`.
    """
    layers = []
    for index, (layer, stacks) in enumerate(zip(params["layers"], adapters["layers"], strict=True)):
        adapted = dict(layer)
        for number, (name, stack) in enumerate(stacks.items()):
            own = None
            if dropout:
                assert key is not None, "dropout needs a key"
                own = jax.random.fold_in(key, index * len(LORA_TARGETS) + number)
            adapted[name] = LoraWeight(
                base=layer[name],
                a=stack["a"],
                b=stack["b"],
                scales=scales,
                ids=ids,
                key=own,
                dropout=dropout,
            )
        layers.append(adapted)
    return {**params, "layers": tuple(layers)}
