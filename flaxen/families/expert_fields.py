"""Reads and writes the fields of config.json that families with experts share.

The coefficients of router losses are settings of training, and ignored. Deliberately does not know
any family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flaxen.expert_kernels.routing import RoutingSpec
from flaxen.families import hf
from flaxen.families.hf_values import flag, natural, positive, require_present, whole
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.experts import Experts
from flaxen.models.layers.mlp import DenseMlp


def with_experts(
    config: DecoderConfig, experts: Experts, is_sparse: Callable[[int], bool] = lambda _: True
) -> DecoderConfig:
    """The configuration with experts in place of the MLPs of some layers.

    Args:
      config: with an MLP in each layer.
      experts: those of each of these layers.
      is_sparse: whether the layer of a number has experts.
    """
    return config.with_layers(
        lambda number, layer: replace(layer, mlp=experts) if is_sparse(number) else layer
    )


def sparse_steps(fields: Mapping[str, Any]) -> Callable[[int], bool]:
    """Which layers have experts, by Qwen's decoder_sparse_step and mlp_only_layers.

    Raises:
      ValueError: mlp_only_layers is no list of numbers.
    """
    step = whole(fields, "decoder_sparse_step", default=1)
    dense = numbers(fields, "mlp_only_layers")
    return lambda number: number not in dense and (number + 1) % step == 0


def numbers(fields: Mapping[str, Any], name: str) -> tuple[int, ...]:
    """Reads a list of whole numbers; null and missing are empty.

    Raises:
      ValueError: it is no list of whole numbers.
    """
    value = fields.get(name) or ()
    if not isinstance(value, list | tuple) or not all(type(each) is int for each in value):
        raise ValueError(f"{name} must be a list of whole numbers, got {value!r}")
    return tuple(value)


def dense_layers(config: DecoderConfig) -> list[int]:
    """The numbers of the layers without experts."""
    return [i for i, layer in enumerate(config.layers) if not isinstance(layer.mlp, Experts)]


def qwen_experts(
    fields: Mapping[str, Any], mlp_dim: str, *, number: str = "num_experts", shared: bool = False
) -> Experts:
    """Qwen's experts: chosen by a softmax, and perhaps beside shared ones behind a gate.

    Args:
      fields: those of config.json.
      mlp_dim: the field with the size of an expert.
      number: the field with their number.
      shared: whether there are shared ones.

    Raises:
      ValueError: a field is missing or not supported.
    """
    beside = DenseMlp(mlp_dim=whole(fields, "shared_expert_intermediate_size")) if shared else None
    normalize = flag(fields, "norm_topk_prob")
    return Experts(
        num_experts=whole(fields, number),
        mlp_dim=whole(fields, mlp_dim),
        routing=RoutingSpec(k=whole(fields, "num_experts_per_tok"), normalize=normalize),
        shared=beside,
        shared_gate=shared,
    )


def qwen_fields(experts: Experts) -> dict[str, Any]:
    """The inverse: the fields of config.json, without the sizes."""
    return {
        "num_experts": experts.num_experts,
        "num_experts_per_tok": experts.routing.k,
        "norm_topk_prob": experts.routing.normalize,
    }


def first_dense(
    fields: Mapping[str, Any], name: str = "first_k_dense_replace"
) -> Callable[[int], bool]:
    """Which layers have experts: all but the first ones, by DeepSeek's field or another.

    Raises:
      ValueError: it is missing or no whole number.
    """
    count = natural(fields, name)
    return lambda number: number >= count


def grouped_sigmoid(fields: Mapping[str, Any]) -> RoutingSpec:
    """The routing of DeepSeek V3, https://arxiv.org/abs/2412.19437.

    Raises:
      ValueError: a field is missing or not supported.
    """
    require_present(fields, "norm_topk_prob", "routed_scaling_factor", "n_group", "topk_group")
    return RoutingSpec(
        k=whole(fields, "num_experts_per_tok"),
        score="sigmoid",
        normalize=flag(fields, "norm_topk_prob"),
        epsilon=1e-20,
        scale=positive(fields, "routed_scaling_factor"),
        num_groups=whole(fields, "n_group", default=1),
        groups_used=whole(fields, "topk_group", default=1),
        group_best=2 if whole(fields, "n_group", default=1) > 1 else 1,
    )


def grouped_experts(fields: Mapping[str, Any]) -> Experts:
    """The experts of DeepSeek V3 and its kin: a bias for the choice, and shared experts.

    Raises:
      ValueError: a field is missing or not supported.
    """
    mlp_dim = whole(fields, "moe_intermediate_size")
    num_shared = whole(fields, "n_shared_experts", default=1)
    return Experts(
        num_experts=whole(fields, "n_routed_experts"),
        mlp_dim=mlp_dim,
        routing=grouped_sigmoid(fields),
        selection_bias=True,
        shared=DenseMlp(mlp_dim=mlp_dim * num_shared),
    )


# These stand in config.json where no layer has experts.
NO_EXPERTS = Experts(
    num_experts=1,
    mlp_dim=1,
    routing=RoutingSpec(k=1, normalize=False),
    shared=DenseMlp(mlp_dim=1),
)


def grouped_fields(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of grouped_experts and first_dense."""
    experts = hf.first(config, Experts, NO_EXPERTS)
    routing = experts.routing
    assert experts.shared is not None
    return {
        "moe_intermediate_size": experts.mlp_dim,
        "n_shared_experts": experts.shared.mlp_dim // experts.mlp_dim,
        "n_routed_experts": experts.num_experts,
        "num_experts_per_tok": routing.k,
        "norm_topk_prob": routing.normalize,
        "routed_scaling_factor": routing.scale,
        "n_group": routing.num_groups,
        "topk_group": routing.groups_used,
        "first_k_dense_replace": len(dense_layers(config)),
    }


def gguf_counts(name: str) -> dict[str, str]:
    """The metadata keys of experts that all architectures have, and their fields.

    Args:
      name: the field of the number of experts.
    """
    return {"expert_count": name, "expert_used_count": "num_experts_per_tok"}


# The same of the architectures with a bias for the choice, groups and shared experts.
GGUF_GROUPED: Mapping[str, str] = {
    **gguf_counts("n_routed_experts"),
    "leading_dense_block_count": "first_k_dense_replace",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_count": "n_shared_experts",
    "expert_weights_scale": "routed_scaling_factor",
    "expert_weights_norm": "norm_topk_prob",
    "expert_group_count": "n_group",
    "expert_group_used_count": "topk_group",
    "expert_gating_func": "gating",  # 1 is a softmax, 2 a sigmoid
    "nextn_predict_layers": "num_nextn_predict_layers",
}
GGUF_GROUPED_DEFAULTS: Mapping[str, Any] = {
    "first_k_dense_replace": 0,
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    "n_group": 1,
    "topk_group": 1,
}


def check_null(fields: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuses fields of features that the family's decoder does not have.

    Raises:
      ValueError: one is set.
    """
    for name in names:
        if fields.get(name) not in (None, False):
            raise ValueError(
                f"{name} = {fields[name]!r} is not supported, and leaving it out would change the "
                "result"
            )
