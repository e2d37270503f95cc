"""The LFM2-MoE family: LFM2 with experts in all layers but the first ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.expert_kernels.routing import RoutingSpec
from flaxen.families import expert_fields, expert_tensors, hf, lfm2
from flaxen.families.family import Family
from flaxen.families.hf_values import flag, positive, require_present, whole
from flaxen.families.rules import as_is, matrix, with_rules
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.experts import Experts


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    require_present(fields, "num_dense_layers", "use_expert_bias", "norm_topk_prob")
    adjusts = {"block_auto_adjust_ff_dim": False}
    config = lfm2.convolutional({**fields, **adjusts}, reads=("num_experts",))
    experts = Experts(
        num_experts=whole(fields, "num_experts"),
        mlp_dim=whole(fields, "moe_intermediate_size"),
        routing=RoutingSpec(
            k=whole(fields, "num_experts_per_tok"),
            score="sigmoid",
            normalize=flag(fields, "norm_topk_prob"),
            epsilon=1e-6,
            scale=positive(fields, "routed_scaling_factor", 1.0),
        ),
        selection_bias=flag(fields, "use_expert_bias"),
    )
    is_late = expert_fields.first_dense(fields, "num_dense_layers")
    return expert_fields.with_experts(config, experts, is_late)


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    experts = hf.first(config, Experts, expert_fields.NO_EXPERTS)
    fields = lfm2.config_to_hf(config)
    del fields["block_auto_adjust_ff_dim"]
    return {
        **fields,
        "num_dense_layers": len(expert_fields.dense_layers(config)),
        **expert_fields.qwen_fields(experts),
        "moe_intermediate_size": experts.mlp_dim,
        "routed_scaling_factor": experts.routing.scale,
        "use_expert_bias": experts.selection_bias,
    }


_MLP = "model.layers.{layer}.feed_forward."

FAMILY = Family(
    architecture="Lfm2MoeForCausalLM",
    model_type="lfm2_moe",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=with_rules(
        lfm2.FAMILY.hf_rules,
        matrix("w_router", _MLP + "gate.weight"),
        as_is("b_router_selection", _MLP + "expert_bias"),
        *expert_tensors.one_by_one(_MLP + "experts.{expert}.{part}.weight", "w1", "w3", "w2"),
    ),
)
