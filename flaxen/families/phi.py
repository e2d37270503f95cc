"""The Phi family: Phi-1, Phi-1.5 and Phi-2. Attention and MLP run side by side, after one norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.families import hf, tensors
from flaxen.families.family import Family
from flaxen.families.hf_rope import rope_config
from flaxen.families.hf_values import flag
from flaxen.families.rules import as_is, renamed, with_rules
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import Attention, QkNorm
from flaxen.models.layers.mlp import DenseMlp

_RULES = renamed(
    tensors.HF,
    {
        "model.norm.": "model.final_layernorm.",
        ".o_proj.": ".dense.",
        ".up_proj.": ".fc1.",
        ".down_proj.": ".fc2.",
        ".q_norm.": ".q_layernorm.",
        ".k_norm.": ".k_layernorm.",
    },
)


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    norm = hf.layer_norm(fields, "layer_norm_eps", bias=True)
    qk_norm = QkNorm(norm=norm) if flag(fields, "qk_layernorm") else None
    return hf.decoder_config(
        fields,
        attention={
            "rope": rope_config(fields, default_partial=0.5),
            "biases": ("wq", "wk", "wv", "wo"),
            "qk_norm": qk_norm,
        },
        mlp={
            "activation": hf.activation(fields, "hidden_act", "gelu_new"),
            "is_gated": False,
            "biases": ("w_up", "w_down"),
        },
        norm=norm,
        layer={"order": "parallel"},
        unembed_bias=True,
        reads=("hidden_act", "partial_rotary_factor"),
    )


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    return {
        "partial_rotary_factor": 1.0,
        **hf.decoder_fields(config),
        "layer_norm_eps": config.final_norm.eps,
        "hidden_act": hf.ACTIVATION_NAMES[hf.first(config, DenseMlp).activation],
        "qk_layernorm": hf.first(config, Attention).qk_norm is not None,
    }


FAMILY = Family(
    architecture="PhiForCausalLM",
    model_type="phi",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=with_rules(
        _RULES,
        as_is("q_norm_bias", "model.layers.{layer}.self_attn.q_layernorm.bias"),
        as_is("k_norm_bias", "model.layers.{layer}.self_attn.k_layernorm.bias"),
    ),
    gguf_architecture="phi2",
    gguf_rules=tensors.GGUF,
    gguf_biases=("wq", "wk", "wv", "wo", "w_up", "w_down"),
    gguf_share="partial_rotary_factor",
    gguf_fields={"attention.layer_norm_epsilon": "layer_norm_eps"},
)
