"""The Cohere families (Command R, R7B, A; Aya): attention and MLP beside each other after one layer
norm, and interleaved rope; the second has rope only on its sliding layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flaxen.families import hf, hf_layers, tensors
from flaxen.families.family import Family
from flaxen.families.hf_layers import FULL, SLIDING
from flaxen.families.hf_rope import rope_config
from flaxen.families.hf_values import positive
from flaxen.models.config import DecoderConfig


def cohere_config(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from the first family's config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    return _config(fields, 500_000.0, ("use_qk_norm", "sliding_window", "layer_types"))


def cohere2_config(fields: Mapping[str, Any]) -> DecoderConfig:
    """The same of the second."""
    kinds = hf_layers.layer_kinds(fields, pattern=4)
    window = hf_layers.sliding_window(fields, kinds)
    config = _config(fields, 10_000.0, ())
    return hf_layers.with_kinds(config, kinds, {FULL: {"rope": None}, SLIDING: {"window": window}})


def _config(fields: Mapping[str, Any], theta: float, refused: tuple[str, ...]) -> DecoderConfig:
    theta = positive(fields, "rope_theta", theta)
    return hf.decoder_config(
        {"tie_word_embeddings": True, **fields},
        attention={
            "biases": hf.attention_biases(fields),
            "rope": rope_config({**fields, "rope_theta": theta}, interleaved=True),
        },
        mlp={"activation": hf.activation(fields, "hidden_act", "silu")},
        norm=hf.layer_norm(fields, "layer_norm_eps", bias=False),
        layer={"order": "parallel"},
        logit_scale=positive(fields, "logit_scale", 0.0625),
        reads=("hidden_act", "logit_scale"),
        refused=("mlp_bias", *refused),
    )


def cohere_fields(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    fields = hf.decoder_fields(config)
    return {
        **fields,
        **hf_layers.rope_of(config),
        "layer_norm_eps": fields.pop("rms_norm_eps"),
        "logit_scale": config.logit_scale,
        "attention_bias": hf.has_bias(config, "wq"),
    }


def cohere2_fields(config: DecoderConfig) -> dict[str, Any]:
    """The same of the second."""
    return {**cohere_fields(config), **hf_layers.kind_fields(config)}


COHERE = Family(
    architecture="CohereForCausalLM",
    model_type="cohere",
    config_from_hf=cohere_config,
    config_to_hf=cohere_fields,
    hf_rules=tensors.HF,
    gguf_architecture="command-r",
    gguf_rules=tensors.GGUF,
    gguf_unembeds=False,
    gguf_fields={
        "attention.layer_norm_epsilon": "layer_norm_eps",
        "logit_scale": "logit_scale",
    },
)
COHERE2 = replace(
    COHERE,
    architecture="Cohere2ForCausalLM",
    model_type="cohere2",
    config_from_hf=cohere2_config,
    config_to_hf=cohere2_fields,
    gguf_architecture="cohere2",
    gguf_fields={**COHERE.gguf_fields, "attention.sliding_window": "sliding_window"},
)
