"""The Ministral family: Mistral whose layers slide or not, by layer_types."""

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
    require_present(fields, "sliding_window", "num_key_value_heads")
    slides = fields["sliding_window"] is not None
    kind = "sliding_attention" if slides else "full_attention"
    kinds = fields.get("layer_types") or [kind] * hf.num_layers(fields)
    return hf.decoder_config(
        fields,
        windows=hf.layer_windows({**fields, "use_sliding_window": slides, "layer_types": kinds}),
        refused=("attention_bias", "mlp_bias", "use_sliding_window"),
    )


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    window = hf.window_fields(config).get("sliding_window")
    kinds = hf.layer_types(config)
    return {**hf.decoder_fields(config), "sliding_window": window, "layer_types": kinds}


FAMILY = Family(
    architecture="MinistralForCausalLM",
    model_type="ministral",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=tensors.HF,
)
