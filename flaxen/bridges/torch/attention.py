"""Our attention with the signature of transformers, and how a class is made to call it.

Each option that a class passes to attention is used or refused, never ignored. Deliberately does
not know which windows its layers have: masks.py finds them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from flaxen.bridges.torch.attend import attend_torch

ATTENTION = "flaxen"  # the name of our attention in the registries of transformers
Windows = Mapping[torch.nn.Module, int | None]  # module that calls attention -> window

_HONOURED = ("scaling", "dropout", "softcap")
# Options that do not change the result. All others must be None or False.
_HARMLESS = (
    "is_causal",  # checked together with the mask
    "sliding_window",  # found in the mask; transformers' CPU functions ignore this option
    "position_ids",  # queries and keys are already rotated
    "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k",  # about padding
    "cache_position", "use_cache", "layer_idx",
    "output_attentions", "output_hidden_states", "output_router_logits", "return_dict",
    "logits_to_keep", "deterministic", "target_dtype",
)  # fmt: skip


def our_attention(windows: Windows) -> Callable[..., Any]:
    """Makes our attention function, as transformers calls it, for the modules of one class."""
    return functools.partial(_attention, windows)


def register(name: str, attention: Callable[..., Any], mask: Callable[..., Any]) -> None:
    """Registers an attention and a mask function in transformers' two registries."""
    ALL_ATTENTION_FUNCTIONS.register(name, attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, mask)


def set_attention(module: torch.nn.Module, name: str) -> None:
    """Makes a model and its submodules call the attention of that name."""
    for each in module.modules():
        config = getattr(each, "config", None)
        if isinstance(config, transformers.PretrainedConfig):
            config._attn_implementation_internal = name


def no_mask(**_: Any) -> None:
    """The mask function for our attention, which needs no mask."""


def _attention(
    windows: Windows,
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention with the signature of transformers: [B, N, T, H] to [B, T, N, H].

    Raises:
      ValueError: the module passes an option that our attention lacks.
    """
    name = type(module).__name__
    if attention_mask is not None:
        raise ValueError(f"{name}'s attention comes with a mask of its own: that is not supported")
    check_options(name, options)
    if dropout:
        raise ValueError(
            f"{name} has dropout of {dropout} on attention weights in training, which are never in "
            "memory. Load it with attention_dropout=0, or what its configuration calls that "
            "(attn_pdrop); other dropout is supported"
        )
    q, k, v = (each.transpose(1, 2) for each in (query, key, value))
    wide, narrow = q.shape[-1], v.shape[-1]
    if narrow > wide:
        raise ValueError(
            f"{name} has keys of {wide} and values of {narrow}: values that are wider than keys "
            "are not supported"
        )
    # A page stores keys and values of one size: narrower values are padded with zeros.
    v = torch.nn.functional.pad(v, (0, wide - narrow)) if narrow < wide else v
    out = attend_torch(q, k, v, window=windows[module], scale=scaling, softcap=softcap)
    return out[..., :narrow], None


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuses options of attention that ours lacks.

    Args:
      name: the name of the module's class.
      options: the arguments besides queries, keys, values and mask.

    Raises:
      ValueError: an unknown option is not None or False.
    """
    unknown = [
        option
        for option, value in options.items()
        if value is not None and value is not False and option not in (*_HONOURED, *_HARMLESS)
    ]
    if unknown:
        raise ValueError(
            f"{name}'s attention requires {', '.join(unknown)}, which is not supported"
        )
