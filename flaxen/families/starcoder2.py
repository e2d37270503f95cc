"""The StarCoder2 family: layer norms and linear layers with biases, and an MLP without a gate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.families import hf, tensors
from flaxen.families.family import Family
from flaxen.families.hf_values import flag, require_present, whole_or_none
from flaxen.families.rules import renamed
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.mlp import DenseMlp


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    require_present(fields, "num_key_value_heads")
    has_biases = flag({"use_bias": True, **fields}, "use_bias")
    window = whole_or_none(fields, "sliding_window")
    return hf.decoder_config(
        {"tie_word_embeddings": True, **fields},
        attention={"biases": ("wq", "wk", "wv", "wo") if has_biases else (), "window": window},
        mlp={
            "activation": hf.activation(fields, "hidden_act", "gelu_pytorch_tanh"),
            "is_gated": False,
            "biases": ("w_up", "w_down") if has_biases else (),
        },
        norm=hf.layer_norm(fields, "norm_epsilon", bias=True),
        reads=("hidden_act",),
        refused=("layer_types", "use_sliding_window"),
    )


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    return {
        **hf.decoder_fields(config),
        "norm_epsilon": config.final_norm.eps,
        "hidden_act": hf.ACTIVATION_NAMES[hf.first(config, DenseMlp).activation],
        "use_bias": hf.has_bias(config, "wq"),
        "sliding_window": hf.windows(config)[0],
    }


FAMILY = Family(
    architecture="Starcoder2ForCausalLM",
    model_type="starcoder2",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=renamed(tensors.HF, {".up_proj.": ".c_fc.", ".down_proj.": ".c_proj."}),
    gguf_architecture="starcoder2",
    gguf_rules=tensors.GGUF,
    gguf_biases=("wq", "wk", "wv", "wo", "w_up", "w_down"),
    gguf_fields={"attention.layer_norm_epsilon": "norm_epsilon"},
)
