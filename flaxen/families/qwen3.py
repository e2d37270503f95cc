"""The dense Qwen3 family: norms on query and key heads, a head size of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.families import hf, tensors
from flaxen.families.family import Family
from flaxen.families.hf_values import require_present
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import QkNorm


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    # transformers' head_dim is 128 where it is missing, whatever the hidden size: don't guess.
    require_present(fields, "num_key_value_heads", "head_dim")
    return hf.decoder_config(
        fields,
        attention={
            "biases": hf.attention_biases(fields),
            "qk_norm": QkNorm(norm=hf.rms_norm(fields)),
        },
        windows=hf.layer_windows(fields),
        refused=("mlp_bias",),
    )


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    return {
        **hf.decoder_fields(config),
        **hf.window_fields(config),
        "attention_bias": hf.has_bias(config, "wq"),
    }


FAMILY = Family(
    architecture="Qwen3ForCausalLM",
    model_type="qwen3",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=tensors.HF,
    gguf_architecture="qwen3",
    gguf_rules=tensors.GGUF,
)
