"""The Granite family: Llama with four multipliers: of embedding, scores, residuals and logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.families import hf, hf_values, tensors
from flaxen.families.family import Family
from flaxen.families.hf_values import positive
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import Attention


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    return hf.decoder_config(
        fields,
        attention={
            "biases": hf.attention_biases(fields),
            "scale": positive(fields, "attention_multiplier", 1.0),
        },
        mlp={
            "activation": hf.activation(fields, "hidden_act", "silu"),
            "biases": hf.mlp_biases(fields),
        },
        layer={"residual_scale": positive(fields, "residual_multiplier", 1.0)},
        embed_scale=positive(fields, "embedding_multiplier", 1.0),
        logit_scale=1 / positive(fields, "logits_scaling", 1.0),
        reads=("hidden_act", "attention_multiplier", "residual_multiplier",
               "embedding_multiplier", "logits_scaling"),
        refused=("sliding_window", "layer_types"),
    )  # fmt: skip


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    mixer = hf.first(config, Attention)
    scale = mixer.head_dim**-0.5 if mixer.scale is None else mixer.scale
    return {
        **hf.decoder_fields(config),
        "attention_bias": hf.has_bias(config, "wq"),
        "mlp_bias": hf.has_bias(config, "w_up"),
        "attention_multiplier": scale,
        "residual_multiplier": config.layers[0].residual_scale,
        "embedding_multiplier": config.embed_scale,
        "logits_scaling": _inverse(config.logit_scale),
    }


def _inverse(scale: float) -> float:
    return hf_values.argument(lambda value: 1 / value, scale, 1 / scale)


GGUF_FIELDS = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}


def gguf_implied(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The scalars of GGUF files that do not name them."""
    scalars = dict.fromkeys(GGUF_FIELDS.values(), 1.0)
    scalars["attention_multiplier"] = fields["head_dim"] ** -0.5
    return {name: fields.get(name) or value for name, value in scalars.items()}


FAMILY = Family(
    architecture="GraniteForCausalLM",
    model_type="granite",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=tensors.HF,
    gguf_architecture="granite",
    gguf_rules=tensors.GGUF_INTERLEAVED,
    gguf_fields=GGUF_FIELDS,
    gguf_implied=gguf_implied,
)
