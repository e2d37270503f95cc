"""The Qwen3-MoE family: Qwen3 with experts in some layers, none of them shared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.families import expert_fields, expert_tensors, hf
from flaxen.families.family import Family
from flaxen.families.hf_values import flag, require_present, whole
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import QkNorm
from flaxen.models.layers.experts import Experts


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    require_present(fields, "num_key_value_heads", "head_dim", "norm_topk_prob")
    window = whole(fields, "sliding_window") if flag(fields, "use_sliding_window") else None
    config = hf.decoder_config(
        fields,
        attention={
            "biases": hf.attention_biases(fields),
            "qk_norm": QkNorm(norm=hf.rms_norm(fields)),
        },
        windows=(window,) * hf.num_layers(fields),
        reads=("num_experts", "num_local_experts"),
        refused=("mlp_bias", "layer_types"),
    )
    # transformers writes the number under its newer name too.
    name = "num_experts" if fields.get("num_experts") is not None else "num_local_experts"
    experts = expert_fields.qwen_experts(fields, "moe_intermediate_size", number=name)
    return expert_fields.with_experts(config, experts, expert_fields.sparse_steps(fields))


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    experts = hf.first(config, Experts, expert_fields.NO_EXPERTS)
    window = hf.windows(config)[0]
    return {
        **hf.decoder_fields(config),
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "attention_bias": hf.has_bias(config, "wq"),
        **expert_fields.qwen_fields(experts),
        "moe_intermediate_size": experts.mlp_dim,
        "decoder_sparse_step": 1,
        "mlp_only_layers": expert_fields.dense_layers(config),
    }


FAMILY = Family(
    architecture="Qwen3MoeForCausalLM",
    model_type="qwen3_moe",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=expert_tensors.QWEN,
    gguf_architecture="qwen3moe",
    gguf_rules=expert_tensors.GGUF_EXPERTS,
    gguf_variants=expert_tensors.GGUF_VARIANTS,
    gguf_fields={
        **expert_fields.gguf_counts("num_experts"),
        "expert_feed_forward_length": "moe_intermediate_size",
    },
    gguf_implied=lambda fields: {"norm_topk_prob": True},
    gguf_biases=(),
)
