"""Turns a causal language model of transformers into a Model, through their attention registry.

Deliberately does not know files or engines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import transformers

from flaxen.bridges.sharding import ShardingRule
from flaxen.bridges.torch.attention import (
    ATTENTION,
    Windows,
    no_mask,
    our_attention,
    register,
    set_attention,
)
from flaxen.bridges.torch.bridge import Call, from_torch
from flaxen.bridges.torch.masks import find_windows
from flaxen.bridges.torch.plans import plan_axes
from flaxen.kernels.choice import AUTO
from flaxen.models.model import Model, Params

_ANY = 2048  # a provisional limit of tokens, if neither the caller nor the configuration names one
# Kinds of layers whose state is more than past keys and values.
_RECURRENT = frozenset({"linear_attention", "mamba", "conv", "hybrid", "hybrid_sliding"})
# Kinds of rope that recompute their frequencies from the largest position in a step.
_ROPE_OF_THE_STEP = ("dynamic", "longrope")


def from_transformers(
    module: transformers.PreTrainedModel,
    *,
    max_position: int | None = None,
    checks: bool = True,
    sharding: Sequence[ShardingRule] = (),
    backend: str = AUTO,
) -> tuple[Model, Params]:
    """Like `from_torch`, for any class whose attention goes through the registry.

    Args:
      module: the model with its weights, on the CPU. It is set to evaluation mode; its attention is
          ours while it is traced; its embeddings no longer treat a padding id specially, and
          experts run as batched products.
      max_position: the most tokens of a sequence; None takes the configuration's number.
      checks: as in `from_torch`.
      sharding: how parameters are divided over a mesh, as in `from_torch`; it goes before the
          class's own plan of tensor parallelism.
      backend: as of `from_torch`.

    Raises:
      ValueError: some layers do not call the registry, or keep a recurrent state; their attention
          or rope is not supported; or the module can't be traced. The message names the class.
    """
    config = module.config.get_text_config()
    name, own = type(module).__name__, config._attn_implementation
    _refuse_form(module, name)
    _refuse_recurrent(module, name)
    _refuse_rope_of_the_step(module, name)
    module.eval()
    for each in module.modules():
        if isinstance(each, torch.nn.Embedding):
            # padding_idx only stops the gradient of padding, on which nobody trains.
            each.padding_idx = None
    if module._can_set_experts_implementation():
        module.set_experts_implementation("batched_mm")
    try:
        windows = find_windows(module, name)
    finally:
        set_attention(module, own)
    known = max_position or getattr(config, "max_position_embeddings", None)
    model, params = from_torch(
        module,
        max_position=known or _ANY,
        call=_call_with(windows, config, name),
        checks=checks,
        windows=tuple(_windows_named(config)),
        axes=plan_axes(module),
        sharding=sharding,
        backend=backend,
    )
    if known is None:
        raise ValueError(
            f"{name}'s configuration does not say how long it can go: give max_position"
        )
    return model, params


def _call_with(windows: Windows, config: transformers.PretrainedConfig, name: str) -> Call:
    """Makes the function that calls a module of a class, with our attention while it is traced."""
    own = config._attn_implementation

    def call(
        module: torch.nn.Module, tokens: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        if type(tokens) is torch.Tensor:  # run in PyTorch: then it also computes its own positions
            alone: torch.Tensor = module(input_ids=tokens, use_cache=False).logits
            return alone
        if module.training and getattr(config, "layerdrop", 0):
            raise ValueError(
                f"{name} leaves out whole layers in training, which is not supported: load it with "
                "layerdrop=0"
            )
        register(ATTENTION, our_attention(windows), no_mask)
        set_attention(module, ATTENTION)
        try:
            scores: torch.Tensor = module(
                input_ids=tokens, position_ids=positions, use_cache=False
            ).logits
        finally:
            set_attention(module, own)
        return scores

    return call


def _windows_named(config: transformers.PretrainedConfig) -> Iterator[int]:
    """The configuration's fields that name a number of tokens after which a mask may change."""
    for name, value in config.to_dict().items():
        is_length = "window" in name or "chunk" in name
        if is_length and isinstance(value, int) and not isinstance(value, bool):
            yield value


def _refuse_form(module: transformers.PreTrainedModel, name: str) -> None:
    """Refuses a module that is quantized, or is not only a decoder."""
    if getattr(module.config, "quantization_config", None) is not None:
        raise ValueError(
            f"{name} was loaded with quantization_config, which is not supported: load the weights "
            "before quantization, and quantize them here"
        )
    if module.config.get_text_config().is_encoder_decoder:
        raise ValueError(
            f"{name} has an encoder and a decoder: only decoder-only models can be served"
        )


def _refuse_recurrent(module: transformers.PreTrainedModel, name: str) -> None:
    kinds = getattr(module.config.get_text_config(), "layer_types", None) or ()
    recurrent = sorted(set(kinds) & _RECURRENT)
    is_attention = kinds and all(kind.endswith("attention") for kind in kinds)
    if recurrent or (getattr(module, "_is_stateful", False) and not is_attention):
        of_kind = f" (layer_types has {', '.join(recurrent)})" if recurrent else ""
        raise ValueError(
            f"{name} has layers with a recurrent state{of_kind}, which take every token in its "
            "turn: only models all of whose layers are attention can be served"
        )


def _refuse_rope_of_the_step(module: torch.nn.Module, name: str) -> None:
    for each in module.modules():
        found = getattr(each, "rope_type", None)
        for kind in found.values() if isinstance(found, dict) else (found,):
            if kind in _ROPE_OF_THE_STEP:
                raise ValueError(
                    f"{name}'s rope of kind {kind!r} is not supported: it turns every position by "
                    "the longest sequence that is computed at the time, so a request's answer "
                    "would depend on other requests"
                )
