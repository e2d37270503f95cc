"""The Mistral family: Llama with one sliding window for all layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.families import hf, tensors
from flaxen.families.family import Family
from flaxen.families.hf_values import require_present, whole_or_none
from flaxen.models.config import DecoderConfig


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    # Both have had defaults other than "none" in transformers, so a guess could be wrong.
    require_present(fields, "sliding_window", "num_key_value_heads")
    window = whole_or_none(fields, "sliding_window")
    return hf.decoder_config(
        fields,
        windows=(window,) * hf.num_layers(fields),
        refused=("attention_bias", "mlp_bias", "layer_types", "use_sliding_window"),
    )


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    return {**hf.decoder_fields(config), "sliding_window": hf.windows(config)[0]}


FAMILY = Family(
    architecture="MistralForCausalLM",
    model_type="mistral",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=tensors.HF,
    gguf_architecture="llama",
    is_gguf=lambda keys: (
        bool(keys.get("attention.sliding_window")) and not keys.get("expert_count")
    ),
    gguf_rules=tensors.GGUF_INTERLEAVED,
)
