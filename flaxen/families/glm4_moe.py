"""The GLM-4-MoE family (GLM-4.5): a part of each head is rotated, and DeepSeek V3's experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.families import expert_fields, expert_tensors, hf
from flaxen.families.family import Family
from flaxen.families.hf_rope import rope_config
from flaxen.families.hf_values import flag, require_present
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import Attention, QkNorm


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    require_present(fields, "num_key_value_heads", "head_dim", "use_qk_norm", "rms_norm_eps")
    has_norms = flag(fields, "use_qk_norm")
    config = hf.decoder_config(
        fields,
        attention={
            "rope": rope_config(fields, default_partial=0.5),
            "biases": ("wq", "wk", "wv") if flag(fields, "attention_bias") else (),
            "qk_norm": QkNorm(norm=hf.rms_norm(fields)) if has_norms else None,
        },
        reads=("n_routed_experts", "num_local_experts", "partial_rotary_factor"),
        refused=("mlp_bias", "sliding_window", "use_sliding_window", "layer_types"),
    )
    experts = expert_fields.grouped_experts(fields)
    return expert_fields.with_experts(config, experts, expert_fields.first_dense(fields))


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    mixer = hf.first(config, Attention)
    assert mixer.rope is not None
    return {
        **hf.decoder_fields(config),
        **expert_fields.grouped_fields(config),
        "partial_rotary_factor": mixer.rope.partial,
        "attention_bias": hf.has_bias(config, "wq"),
        "use_qk_norm": mixer.qk_norm is not None,
    }


def _implied(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What the metadata may leave out."""
    if fields.get("gating") not in (None, 2):
        raise ValueError(
            f"metadata glm4moe.expert_gating_func = {fields['gating']!r} is not supported: 2 "
            "(sigmoid) is"
        )
    return {**expert_fields.GGUF_GROUPED_DEFAULTS, **fields}


FAMILY = Family(
    architecture="Glm4MoeForCausalLM",
    model_type="glm4_moe",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=expert_tensors.DEEPSEEK,
    gguf_architecture="glm4moe",
    gguf_rules=expert_tensors.GGUF_EXPERTS_POST,
    gguf_variants=expert_tensors.GGUF_VARIANTS,
    gguf_fields=expert_fields.GGUF_GROUPED,
    gguf_share="partial_rotary_factor",
    gguf_flags={"use_qk_norm": "attn_q_norm.weight"},
    gguf_implied=_implied,
    gguf_keys=lambda fields: {"expert_gating_func": 2},
    has_extra_layers=True,
)
