"""The Seed-OSS family: Llama with a head size of its own, and biases on query, key and value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.families import hf, tensors
from flaxen.families.family import Family
from flaxen.families.hf_values import flag, require_present
from flaxen.families.rules import as_is, with_rules
from flaxen.models.config import DecoderConfig

_BIASES = {  # the field of config.json that says whether these layers have biases
    "attention_bias": ("wq", "wk", "wv"),
    "attention_out_bias": ("wo",),
    "mlp_bias": ("w_gate", "w_up", "w_down"),
}


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    require_present(fields, "attention_bias", "head_dim", "num_key_value_heads")
    return hf.decoder_config(
        fields,
        attention={"biases": _biases(fields, "attention_bias", "attention_out_bias")},
        mlp={"biases": _biases(fields, "mlp_bias")},
        refused=("sliding_window", "use_sliding_window", "layer_types"),
    )


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    biases = {key: hf.has_bias(config, own[0]) for key, own in _BIASES.items()}
    return {**hf.decoder_fields(config), **biases}


def _biases(fields: Mapping[str, Any], *keys: str) -> tuple[str, ...]:
    return tuple(name for key in keys if flag(fields, key) for name in _BIASES[key])


FAMILY = Family(
    architecture="SeedOssForCausalLM",
    model_type="seed_oss",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=tensors.HF,
    gguf_architecture="seed_oss",
    gguf_rules=with_rules(
        tensors.GGUF, as_is("mlp_norm", "blk.{layer}.post_attention_norm.weight")
    ),
)
