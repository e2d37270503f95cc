"""The DeepSeek V2 family, https://arxiv.org/abs/2405.04434: latent attention and experts, which are
chosen by a softmax.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flaxen.expert_kernels.routing import RoutingSpec
from flaxen.families import deepseek_v3, expert_fields, hf
from flaxen.families.hf_values import positive, require_present, whole
from flaxen.families.latent_fields import latent_config, latent_fields
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.experts import Experts
from flaxen.models.layers.mlp import DenseMlp

_METHODS = ("greedy", "group_limited_greedy")


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    require_present(fields, "num_experts_per_tok", "n_routed_experts", "moe_intermediate_size")
    expert_fields.check_null(fields, ("mlp_bias", "norm_topk_prob"))
    if fields.get("scoring_func") not in (None, "softmax"):
        raise ValueError(
            f"scoring_func = {fields['scoring_func']!r} is not supported in DeepSeek V2, whose "
            "experts are chosen by a softmax: is this a DeepseekV3ForCausalLM?"
        )
    mlp_dim = whole(fields, "moe_intermediate_size")
    experts = Experts(
        num_experts=whole(fields, "n_routed_experts"),
        mlp_dim=mlp_dim,
        routing=_routing(fields),
        shared=DenseMlp(mlp_dim=mlp_dim * whole(fields, "n_shared_experts", default=2)),
    )
    config = latent_config(fields, reads=("n_routed_experts",))
    step = whole(fields, "moe_layer_freq", default=1)
    is_late = expert_fields.first_dense({"first_k_dense_replace": 0, **fields})
    return expert_fields.with_experts(
        config, experts, lambda number: is_late(number) and number % step == 0
    )


def _routing(fields: Mapping[str, Any]) -> RoutingSpec:
    method = fields.get("topk_method") or "greedy"
    if method not in _METHODS:
        raise ValueError(
            f"topk_method = {method!r} is not supported in DeepSeek V2: {' and '.join(_METHODS)} "
            "are"
        )
    has_groups = method == "group_limited_greedy"
    return RoutingSpec(
        k=whole(fields, "num_experts_per_tok"),
        normalize=False,
        scale=positive(fields, "routed_scaling_factor", 1.0),
        num_groups=whole(fields, "n_group") if has_groups else 1,
        groups_used=whole(fields, "topk_group") if has_groups else 1,
    )


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    routing = hf.first(config, Experts, expert_fields.NO_EXPERTS).routing
    has_groups = routing.num_groups > 1
    return {
        **latent_fields(config),
        **expert_fields.grouped_fields(config),
        "scoring_func": "softmax",
        "topk_method": _METHODS[has_groups],
        "n_group": routing.num_groups if has_groups else None,
        "topk_group": routing.groups_used if has_groups else None,
    }


FAMILY = replace(
    deepseek_v3.FAMILY,
    architecture="DeepseekV2ForCausalLM",
    model_type="deepseek_v2",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    is_gguf=lambda keys: keys.get("expert_gating_func") != 2,
    has_extra_layers=False,
)
