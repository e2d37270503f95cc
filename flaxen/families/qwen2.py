"""The Qwen2 and Qwen2.5 family: biases on query, key and value; sliding windows on some layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.families import hf, tensors
from flaxen.families.family import Family
from flaxen.families.hf_values import require_present
from flaxen.models.config import DecoderConfig


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    require_present(fields, "num_key_value_heads")
    return hf.decoder_config(
        fields,
        attention={"biases": ("wq", "wk", "wv")},
        windows=hf.layer_windows(fields),
        refused=("mlp_bias",),
    )


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    return {**hf.decoder_fields(config), **hf.window_fields(config)}


FAMILY = Family(
    architecture="Qwen2ForCausalLM",
    model_type="qwen2",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=tensors.HF,
    gguf_architecture="qwen2",
    gguf_rules=tensors.GGUF,
)
