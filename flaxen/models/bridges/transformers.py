"""A causal language model of transformers as a Model: its attention is reached by their registry.

Deliberately does not know files or engines.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from flaxen.models.bridges.function import NoAttentionError
from flaxen.models.bridges.torch import attend_torch, from_torch
from flaxen.models.model import Model, Params

_ANY = 2048  # tokens, until it is found that nobody said how many
ATTENTION = "flaxen"  # the name of our attention in the registries of transformers


def from_transformers(
    module: transformers.PreTrainedModel, *, max_position: int | None = None, checks: bool = True
) -> tuple[Model, Params]:
    """As `from_torch`, of any class whose attention goes through the registry.

    Args:
      module: with its weights, on the host. It is set to evaluation; its attention is ours while it
        is traced, its embeddings forget which id is padding, and experts run as batched products.
      max_position: tokens that a sequence can have; None: the configuration's.
      checks: as of `from_torch`.

    Raises:
      ValueError: some layers do not call the registry, or their attention is of a kind that is not
        supported; the message names the class.
    """
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, _no_mask)
    config = module.config.get_text_config()
    name, own = type(module).__name__, config._attn_implementation

    def call(
        module: torch.nn.Module, tokens: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        is_traced = type(tokens) is not torch.Tensor
        if module.training and getattr(config, "layerdrop", 0):
            raise ValueError(
                f"{name} leaves out whole layers in training, which is not supported: load it with "
                "layerdrop=0"
            )
        _set_attention(module, ATTENTION if is_traced else own)
        scores: torch.Tensor = module(
            input_ids=tokens, position_ids=positions, use_cache=False
        ).logits
        return scores

    for each in module.modules():
        if isinstance(each, torch.nn.Embedding):
            # It only says that padding, which nobody trains on, has no gradient.
            each.padding_idx = None
    if _experts(module):
        module.set_experts_implementation("batched_mm")
    known = max_position or getattr(config, "max_position_embeddings", None)
    try:
        model, params = from_torch(
            module,
            max_position=known or _ANY,
            call=call,
            checks=checks,
        )
    except NoAttentionError:
        raise _bypassed(name, 0, config.num_hidden_layers) from None
    if len(model.cache_specs) != config.num_hidden_layers:
        raise _bypassed(name, len(model.cache_specs), config.num_hidden_layers)
    if known is None:
        raise ValueError(
            f"{name}'s configuration does not say how long it can go: give max_position"
        )
    return model, params


def _bypassed(name: str, found: int, num_layers: int) -> ValueError:
    return ValueError(
        f"{name} has {num_layers} layers, and {found} of them call transformers' registry of "
        "attention functions: the others keep to themselves what they know of past tokens, and "
        "can't be served"
    )


def _set_attention(module: torch.nn.Module, name: str) -> None:
    for each in module.modules():
        config = getattr(each, "config", None)
        if isinstance(config, transformers.PretrainedConfig):
            config._attn_implementation_internal = name


def _experts(module: torch.nn.Module) -> bool:
    config = module.config.get_text_config()
    return bool(getattr(config, "num_experts", 0) or getattr(config, "num_local_experts", 0))


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers' attention functions: [B, N, T, H] to [B, T, N, H].

    Raises:
      ValueError: something that our attention has not.
    """
    name = type(module).__name__
    unknown = [
        option for option in ("s_aux", "position_bias", "bias") if options.get(option) is not None
    ]
    if unknown:
        raise ValueError(f"{name}'s attention wants {', '.join(unknown)}, which is not supported")
    if attention_mask is not None:
        raise ValueError(f"{name}'s attention comes with a mask of its own: that is not supported")
    if not getattr(module, "is_causal", True):
        raise ValueError(f"{name} is not causal: only causal attention can be served")
    if dropout:
        raise ValueError(
            f"{name} drops {dropout} of the weights of attention in training, which are never in "
            "memory. Load it with attention_dropout=0, or what its configuration calls that "
            "(attn_pdrop); other dropout is supported"
        )
    if query.shape[-1] != value.shape[-1]:
        raise ValueError(
            f"{name} has keys of {query.shape[-1]} and values of {value.shape[-1]}: heads of one "
            "size are supported"
        )
    q, k, v = (each.transpose(1, 2) for each in (query, key, value))
    return attend_torch(q, k, v, window=sliding_window, scale=scaling, softcap=softcap), None


def _no_mask(**_: Any) -> None:
    """Ours needs none."""
