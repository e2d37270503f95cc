"""The SmolLM3 family: Llama without rope on every fourth layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flaxen.families import hf, hf_layers, tensors
from flaxen.families.family import Family
from flaxen.families.hf_layers import FULL, SLIDING
from flaxen.families.hf_rope import rope_config
from flaxen.families.hf_values import flag, positive, require_present, whole
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import Attention


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    require_present(fields, "num_key_value_heads")
    theta = positive(fields, "rope_theta", 2_000_000.0)
    config = hf.decoder_config(
        {"tie_word_embeddings": True, **fields},
        attention={
            "biases": hf.attention_biases(fields),
            "rope": rope_config({**fields, "rope_theta": theta}),
        },
        mlp={
            "activation": hf.activation(fields, "hidden_act", "silu"),
            "biases": hf.mlp_biases(fields),
        },
        reads=("hidden_act", "no_rope_layers"),
    )
    has_rope = _has_rope(fields)
    kinds = [SLIDING if not each else FULL for each in has_rope]
    if fields.get("layer_types") is not None:
        kinds = list(hf_layers.layer_kinds(fields, pattern=1))
    window: int | None = None
    if flag(fields, "use_sliding_window") and SLIDING in kinds:
        window = whole(fields, "sliding_window")
    config = hf_layers.with_kinds(config, tuple(kinds), {SLIDING: {"window": window}})
    return config.with_layers(
        lambda i, layer: layer if has_rope[i] else replace(layer, mixer=_without_rope(layer.mixer))
    )


def _without_rope(mixer: Any) -> Attention:
    assert isinstance(mixer, Attention)
    return replace(mixer, rope=None)


def _has_rope(fields: Mapping[str, Any]) -> list[bool]:
    """Whether each layer has rope: a 1 in no_rope_layers says that it has."""
    count, given = hf.num_layers(fields), fields.get("no_rope_layers")
    if given is None:
        interval = whole(fields, "no_rope_layer_interval", default=4)
        return [bool((i + 1) % interval) for i in range(count)]
    if not isinstance(given, list | tuple) or len(given) < count or {*given} - {0, 1}:
        raise ValueError(
            f"no_rope_layers must list 1 or 0 for each of the {count} layers, got {given!r}"
        )
    return [bool(each) for each in given[:count]]


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    kinds = hf_layers.kind_fields(config)
    return {
        **hf.decoder_fields(config),
        **hf_layers.rope_of(config),
        **kinds,
        "use_sliding_window": kinds["sliding_window"] is not None,
        "no_rope_layers": [int(each is not None) for each in hf_layers.layer_ropes(config)],
        "attention_bias": hf.has_bias(config, "wq"),
        "mlp_bias": hf.has_bias(config, "w_up"),
    }


FAMILY = Family(
    architecture="SmolLM3ForCausalLM",
    model_type="smollm3",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=tensors.HF,
    gguf_architecture="smollm3",
    gguf_rules=tensors.GGUF_INTERLEAVED,
)
