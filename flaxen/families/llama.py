"""The Llama family: Llama 1 to 3.3, SmolLM2, TinyLlama and what else shares the architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.families import hf, tensors
from flaxen.families.family import Family
from flaxen.models.config import DecoderConfig


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    return hf.decoder_config(
        fields,
        attention={"biases": hf.attention_biases(fields)},
        mlp={"biases": hf.mlp_biases(fields)},
        refused=("sliding_window", "use_sliding_window", "layer_types"),
    )


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    return {
        **hf.decoder_fields(config),
        "attention_bias": hf.has_bias(config, "wq"),
        "mlp_bias": hf.has_bias(config, "w_up"),
    }


FAMILY = Family(
    architecture="LlamaForCausalLM",
    model_type="llama",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=tensors.HF,
    gguf_architecture="llama",
    gguf_aliases=("mistral3",),
    is_gguf=lambda keys: (
        not any(
            keys.get(each)
            for each in ("attention.sliding_window", "expert_count", "attention.temperature_scale")
        )
    ),
    gguf_rules=tensors.GGUF_INTERLEAVED,
    gguf_biases=("wq", "wk", "wv", "wo", "w_gate", "w_up", "w_down"),
)
