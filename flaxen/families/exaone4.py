"""The EXAONE 4 family: norms after each part and of query and key heads; where some layers slide,
the others have no rope.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.families import hf, hf_layers, tensors
from flaxen.families.family import Family
from flaxen.families.hf_layers import FULL, SLIDING
from flaxen.families.hf_values import require_present, whole
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import QkNorm

_SOME_WINDOW = 4096


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    require_present(fields, "num_key_value_heads", "sliding_window", "rms_norm_eps")
    config = hf.decoder_config(
        fields,
        attention={"qk_norm": QkNorm(norm=hf.rms_norm(fields))},
        mlp={"activation": hf.activation(fields, "hidden_act", "silu")},
        layer={"order": "post"},
        reads=("hidden_act",),
        refused=("attention_bias", "mlp_bias"),
    )
    if fields["sliding_window"] is None:
        if SLIDING in (fields.get("layer_types") or ()):
            raise ValueError(
                f"layer_types has {SLIDING}, but sliding_window is null: set it, or make every "
                f"layer {FULL}"
            )
        return config
    kinds = hf_layers.layer_kinds(fields, pattern=4)
    window = whole(fields, "sliding_window")
    return hf_layers.with_kinds(config, kinds, {FULL: {"rope": None}, SLIDING: {"window": window}})


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    kinds = hf_layers.kind_fields(config)
    if None in hf_layers.layer_ropes(config):
        kinds["sliding_window"] = kinds["sliding_window"] or _SOME_WINDOW
    return {**hf.decoder_fields(config), **hf_layers.rope_of(config), **kinds}


FAMILY = Family(
    architecture="Exaone4ForCausalLM",
    model_type="exaone4",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=tensors.HF_SANDWICH,
    gguf_architecture="exaone4",
    gguf_rules=tensors.GGUF,
    gguf_fields={"attention.sliding_window": "sliding_window"},
    has_gguf_pattern=True,
)
