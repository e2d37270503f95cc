"""The OLMo 2 and OLMo 3 families: norms after each part, and over the whole queries and keys.

OLMo 3 slides on three layers of four.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.families import hf, hf_layers, tensors
from flaxen.families.family import Family
from flaxen.families.hf_layers import FULL, SLIDING
from flaxen.families.hf_rope import rope_config, rope_fields
from flaxen.families.hf_values import positive, require_present
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import QkNorm
from flaxen.models.rope_config import RopeConfig

_THETA = 500_000.0  # of OLMo 3, where the field is missing


def olmo2_config(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from OLMo 2's config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    return _config(fields, rope_config(fields), ("sliding_window", "layer_types"))


def olmo3_config(fields: Mapping[str, Any]) -> DecoderConfig:
    """The same of OLMo 3."""
    kinds, ropes = hf_layers.layer_kinds(fields, pattern=4), _ropes(fields)
    config = _config(fields, ropes[FULL], ())
    window = hf_layers.sliding_window(fields, kinds)
    return hf_layers.with_kinds(
        config, kinds, {SLIDING: {"window": window, "rope": ropes[SLIDING]}}
    )


def _config(fields: Mapping[str, Any], rope: RopeConfig, refused: tuple[str, ...]) -> DecoderConfig:
    require_present(fields, "rms_norm_eps")
    return hf.decoder_config(
        fields,
        attention={
            "biases": hf.attention_biases(fields),
            "qk_norm": QkNorm(norm=hf.rms_norm(fields), over="whole"),
            "rope": rope,
        },
        mlp={"activation": hf.activation(fields, "hidden_act", "silu")},
        layer={"order": "post"},
        reads=("hidden_act",),
        refused=("mlp_bias", *refused),
    )


def _ropes(fields: Mapping[str, Any]) -> dict[str, RopeConfig]:
    """Layers that slide have no scaling of rope, unless rope_parameters says so."""
    nested = hf_layers.ropes(fields, {FULL: _THETA, SLIDING: _THETA})
    if nested is not None:
        return nested
    theta = positive(fields, "rope_theta", _THETA)
    return {
        FULL: hf_layers.kind_rope({**fields, "rope_theta": theta}),
        SLIDING: RopeConfig(theta=theta),
    }


def olmo2_fields(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    return {**hf.decoder_fields(config), "attention_bias": hf.has_bias(config, "wq")}


def olmo3_fields(config: DecoderConfig) -> dict[str, Any]:
    """The same of OLMo 3."""
    plain = olmo2_fields(config)
    fields = {name: each for name, each in plain.items() if name not in hf_layers.ROPE_FIELDS}
    ropes = dict(zip(hf.layer_types(config), hf_layers.layer_ropes(config), strict=True))
    full, local = ropes.get(FULL), ropes.get(SLIDING)
    if local in (None, RopeConfig(theta=_THETA)) and (full or local) is not None:
        rope = rope_fields(full or RopeConfig(theta=_THETA))
    else:  # versions of transformers disagree on what the older spelling means here
        rope = {"rope_parameters": hf_layers.nested_fields(ropes)}
    return {**fields, **hf_layers.kind_fields(config), **rope}


OLMO2 = Family(
    architecture="Olmo2ForCausalLM",
    model_type="olmo2",
    config_from_hf=olmo2_config,
    config_to_hf=olmo2_fields,
    hf_rules=tensors.HF_SANDWICH,
    gguf_architecture="olmo2",
    is_gguf=lambda keys: not keys.get("attention.sliding_window"),
    gguf_rules=tensors.GGUF,
)
OLMO3 = Family(
    architecture="Olmo3ForCausalLM",
    model_type="olmo3",
    config_from_hf=olmo3_config,
    config_to_hf=olmo3_fields,
    hf_rules=tensors.HF_SANDWICH,
    gguf_architecture="olmo2",
    is_gguf=lambda keys: bool(keys.get("attention.sliding_window")),
    gguf_rules=tensors.GGUF,
    gguf_fields={"attention.sliding_window": "sliding_window"},
    has_gguf_pattern=True,
)
