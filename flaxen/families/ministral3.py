"""The Ministral 3 family: Mistral whose queries grow with their position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.families import hf, tensors
from flaxen.families.family import Family
from flaxen.families.hf_values import positive, require_present, whole, whole_or_none
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import Attention, Temperature

_BETA = "llama_4_scaling_beta"
_FACTOR = "mscale_all_dim"


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    # transformers has defaults for these that are of one published model.
    require_present(fields, "head_dim", "num_key_value_heads", "rope_parameters", "rms_norm_eps")
    rope = dict(fields["rope_parameters"])
    beta = positive(rope, _BETA)
    interval = whole(rope, "original_max_position_embeddings")
    for name in (_BETA, "max_position_embeddings"):
        rope.pop(name, None)
    window = whole_or_none(fields, "sliding_window")
    return hf.decoder_config(
        {**fields, "rope_parameters": rope},
        attention={"window": window, "temperature": Temperature(interval=interval, scale=beta)},
        refused=("attention_bias", "mlp_bias", "use_sliding_window", "layer_types"),
    )


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    mixer, fields = hf.first(config, Attention), hf.decoder_fields(config)
    assert mixer.temperature is not None
    rope = {
        "rope_type": "default",
        "rope_theta": fields.pop("rope_theta"),
        **fields.pop("rope_scaling", {}),
        "original_max_position_embeddings": mixer.temperature.interval,
        _BETA: mixer.temperature.scale,
    }
    return {**fields, "rope_parameters": rope, "sliding_window": mixer.window}


def _implied(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The rope of the metadata, with what llama.cpp takes for the factor on cosines."""
    scaling = fields["rope_scaling"]
    if scaling is None or scaling["rope_type"] != "yarn":
        raise ValueError(f"mistral3 with {_BETA} needs rope.scaling.type = 'yarn', got {scaling}")
    if factor := fields.get(_FACTOR):
        scaling = {**scaling, "mscale": 1.0, _FACTOR: factor}
    own = {"rope_theta": fields.get("rope_theta", 10_000.0), _BETA: fields[_BETA]}
    return {"rope_parameters": scaling | own, "rope_scaling": None}


def _keys(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse."""
    rope = fields["rope_parameters"]
    return {
        "rope.freq_base": rope["rope_theta"],
        "attention.temperature_scale": rope[_BETA],
        "rope.scaling.yarn_log_multiplier": rope.get(_FACTOR),
    }


FAMILY = Family(
    architecture="Ministral3ForCausalLM",
    model_type="ministral3",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=tensors.HF,
    gguf_architecture="mistral3",
    is_gguf=lambda keys: bool(keys.get("attention.temperature_scale")),
    gguf_rules=tensors.GGUF_INTERLEAVED,
    gguf_fields={
        "attention.temperature_scale": _BETA,
        "rope.scaling.yarn_log_multiplier": _FACTOR,
    },
    gguf_implied=_implied,
    gguf_keys=_keys,
    gguf_biases=(),
)
