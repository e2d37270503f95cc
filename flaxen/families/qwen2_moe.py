"""The Qwen2-MoE family: Qwen2 with experts, and shared experts behind a gate, in some layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.families import expert_fields, expert_tensors, hf
from flaxen.families.family import Family
from flaxen.families.hf_values import flag, require_present
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.experts import Experts


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    require_present(fields, "num_key_value_heads", "norm_topk_prob")
    has_biases = fields.get("qkv_bias") is None or flag(fields, "qkv_bias")
    config = hf.decoder_config(
        fields,
        attention={"biases": ("wq", "wk", "wv") if has_biases else ()},
        windows=_windows(fields),
        reads=("num_experts",),
        refused=("attention_bias", "mlp_bias"),
    )
    experts = expert_fields.qwen_experts(fields, "moe_intermediate_size", shared=True)
    return expert_fields.with_experts(config, experts, expert_fields.sparse_steps(fields))


def _windows(fields: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Each layer's window: without layer_types, transformers gives one to every second layer."""
    if flag(fields, "use_sliding_window"):
        require_present(fields, "layer_types")
    return hf.layer_windows(fields)


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    experts = hf.first(config, Experts, expert_fields.NO_EXPERTS)
    assert experts.shared is not None
    return {
        **hf.decoder_fields(config),
        **hf.window_fields(config),
        "qkv_bias": hf.has_bias(config, "wq"),
        **expert_fields.qwen_fields(experts),
        "moe_intermediate_size": experts.mlp_dim,
        "shared_expert_intermediate_size": experts.shared.mlp_dim,
        "decoder_sparse_step": 1,
        "mlp_only_layers": expert_fields.dense_layers(config),
    }


FAMILY = Family(
    architecture="Qwen2MoeForCausalLM",
    model_type="qwen2_moe",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=expert_tensors.QWEN,
    gguf_architecture="qwen2moe",
    gguf_rules=expert_tensors.GGUF_EXPERTS,
    gguf_variants=expert_tensors.GGUF_VARIANTS,
    gguf_fields={
        **expert_fields.gguf_counts("num_experts"),
        "expert_feed_forward_length": "moe_intermediate_size",
        "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    },
    gguf_implied=lambda fields: {
        "norm_topk_prob": False,
        "qkv_bias": fields["attention_bias"],
        "attention_bias": None,
    },
)
