"""The plan of tensor parallelism that a class of transformers has, as names of axes.

Deliberately does not know meshes, nor how a module is run.
"""

from __future__ import annotations

import re
from typing import Any

import transformers

from flaxen.bridges.sharding import Axes

_LAYER = re.compile(r"\.\d+(?=\.|$)")
# Ways of the plan that divide nothing: the module is the same on every device, or holds others.
_WHOLE = (
    "all_reduce",
    "ep_dispatch",
    "grouped_gemm",
    "local_params",
    "mla_kv_a_proj",
    "moe_",
    "replicat",
    "sequence_parallel",
)


def plan_axes(module: transformers.PreTrainedModel) -> dict[str, Axes]:
    """The names of the axes of the parameters that the class's plan divides, by PyTorch's names.

    A plan says of a module only that its outputs are divided (colwise) or its inputs (rowwise); of
    what, its shape tells: of heads, of the vocabulary, or of the MLP.

    Args:
      module: the model; a class without a plan gives nothing.

    Raises:
      ValueError: the plan has a way to divide that is not known here.
    """
    plan: dict[str, str] = getattr(module, "tp_plan", None) or {}
    config = module.config.get_text_config()
    found: dict[str, Axes] = {}
    for name, parameter in module.named_parameters():
        owner = name.rpartition(".")[0]
        way = plan.get(_LAYER.sub(".*", name)) or plan.get(_LAYER.sub(".*", owner))
        if way is None or way.startswith(_WHOLE):
            continue
        divided = _divided(way, parameter.ndim, name)
        if divided is None:
            continue
        axes: list[str | None] = [None] * parameter.ndim
        if parameter.ndim > 1:
            other = parameter.ndim - 1 if divided == parameter.ndim - 2 else parameter.ndim - 2
            axes[other] = "model"
        axes[divided] = _unit(config, name, int(parameter.shape[divided]))
        found[name] = tuple(axes)
    return found


def _divided(way: str, ndim: int, name: str) -> int | None:
    """The axis of a parameter [..., out, in], or of a bias [out], that is divided; None for none.

    The table of an embedding is [V, D], and its rows are the inputs.
    """
    if way == "embedding_rowwise":
        return 0
    if way == "embedding_colwise":
        return 1
    if "colwise" in way:
        return max(ndim - 2, 0)
    if "rowwise" in way:
        return None if ndim == 1 else ndim - 1
    raise ValueError(
        f"the plan of tensor parallelism divides {name} in the way {way!r}, which is not "
        "supported: give sharding=[(pattern, axes), ...]"
    )


def _unit(config: Any, name: str, size: int) -> str:
    """The logical name of an axis of this size."""
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    if size == config.vocab_size:
        return "vocab"
    if "attn" not in name and "attention" not in name:
        return "mlp"
    return "kv_heads" if size == kv_heads * head_dim and kv_heads < heads else "heads"
