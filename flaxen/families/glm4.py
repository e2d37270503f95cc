"""The GLM-4 families: interleaved rope over half of a head, fused gate and up projections; the one
of 2025 (Glm4) has norms before and after each part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.families import hf, tensors
from flaxen.families.family import Family
from flaxen.families.hf_rope import rope_config
from flaxen.families.hf_values import flag, require_present
from flaxen.families.rules import as_is, with_rules
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.block import Order


def glm_config(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from the first family's config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    return _config(fields, "pre")


def glm4_config(fields: Mapping[str, Any]) -> DecoderConfig:
    """The same of the second."""
    return _config(fields, "sandwich")


def _config(fields: Mapping[str, Any], order: Order) -> DecoderConfig:
    require_present(fields, "head_dim", "num_key_value_heads", "attention_bias", "rms_norm_eps")
    has_biases = flag(fields, "attention_bias")
    return hf.decoder_config(
        fields,
        attention={
            "biases": ("wq", "wk", "wv") if has_biases else (),
            "rope": rope_config(fields, default_partial=0.5, interleaved=True),
        },
        mlp={"activation": hf.activation(fields, "hidden_act", "silu")},
        layer={"order": order},
        reads=("hidden_act", "partial_rotary_factor"),
        refused=("mlp_bias", "sliding_window", "layer_types"),
    )


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    return {
        "partial_rotary_factor": 1.0,
        **hf.decoder_fields(config),
        "attention_bias": hf.has_bias(config, "wq"),
    }


_RULES = with_rules(tensors.HF, tensors.HF_FUSED_GATE_UP)
GLM = Family(
    architecture="GlmForCausalLM",
    model_type="glm",
    config_from_hf=glm_config,
    config_to_hf=config_to_hf,
    hf_rules=_RULES,
    gguf_architecture="chatglm",
    gguf_rules=with_rules(tensors.GGUF, tensors.GGUF_FUSED_GATE_UP),
    gguf_share="partial_rotary_factor",
    gguf_implied=lambda fields: {
        "head_dim": fields["hidden_size"] // fields["num_attention_heads"]
    },
)
GLM4 = Family(
    architecture="Glm4ForCausalLM",
    model_type="glm4",
    config_from_hf=glm4_config,
    config_to_hf=config_to_hf,
    hf_rules=with_rules(
        _RULES,
        as_is("attn_post_norm", "model.layers.{layer}.post_self_attn_layernorm.weight"),
        as_is("mlp_post_norm", "model.layers.{layer}.post_mlp_layernorm.weight"),
    ),
    gguf_architecture="glm4",
    gguf_rules=with_rules(tensors.GGUF, tensors.GGUF_FUSED_GATE_UP),
    gguf_share="partial_rotary_factor",
)
