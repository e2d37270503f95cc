"""The first Gemma family: Llama with a scaled embedding, RMS norms of 1 + weight, and GeGLU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.families import hf, tensors
from flaxen.families.family import Family
from flaxen.families.hf_values import require_present, whole
from flaxen.models.config import DecoderConfig


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    require_present(fields, "head_dim", "num_key_value_heads")
    return hf.decoder_config(
        {"tie_word_embeddings": True, **fields},
        attention={"biases": hf.attention_biases(fields)},
        mlp={"activation": _activation(fields)},
        norm=hf.rms_norm(fields, one_plus=True),
        embed_scale=whole(fields, "hidden_size") ** 0.5,
        reads=("hidden_act", "hidden_activation"),
        refused=("mlp_bias", "sliding_window", "layer_types"),
    )


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    return {**hf.decoder_fields(config), "attention_bias": hf.has_bias(config, "wq")}


def _activation(fields: Mapping[str, Any]) -> str:
    """The published files say gelu and mean the form with tanh, or say so in a second field."""
    name = "hidden_activation" if fields.get("hidden_activation") is not None else "hidden_act"
    if fields.get(name) == "gelu":
        return "gelu_tanh"
    return hf.activation(fields, name, "gelu_pytorch_tanh")


FAMILY = Family(
    architecture="GemmaForCausalLM",
    model_type="gemma",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=tensors.HF,
    gguf_architecture="gemma",
    gguf_rules=tensors.GGUF_ONE_PLUS,
    gguf_unembeds=False,
    gguf_implied=lambda fields: {"hidden_act": "gelu_pytorch_tanh"},
)
