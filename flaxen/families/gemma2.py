"""The Gemma 2 family: Gemma with norms before and after each part, softcaps, and sliding windows
on every second layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.families import hf, hf_layers, tensors
from flaxen.families.family import Family
from flaxen.families.hf_layers import SLIDING
from flaxen.families.hf_values import optional, positive, query_scalar, require_present, whole
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import Attention


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    require_present(fields, "head_dim", "num_key_value_heads", "query_pre_attn_scalar",
                    "attn_logit_softcapping", "final_logit_softcapping")  # fmt: skip
    kinds = hf_layers.layer_kinds(fields, pattern=2)
    config = hf.decoder_config(
        {"tie_word_embeddings": True, **fields},
        attention={
            "biases": hf.attention_biases(fields),
            "scale": positive(fields, "query_pre_attn_scalar") ** -0.5,
            "softcap": optional(fields, "attn_logit_softcapping"),
        },
        mlp={"activation": hf.activation(fields, "hidden_activation", "gelu_pytorch_tanh")},
        norm=hf.rms_norm(fields, one_plus=True),
        layer={"order": "sandwich"},
        embed_scale=whole(fields, "hidden_size") ** 0.5,
        logit_softcap=optional(fields, "final_logit_softcapping"),
        reads=("hidden_act", "hidden_activation", "attn_logit_softcapping",
               "final_logit_softcapping"),
        refused=("mlp_bias",),
    )  # fmt: skip
    return hf_layers.with_kinds(
        config, kinds, {SLIDING: {"window": hf_layers.sliding_window(fields, kinds)}}
    )


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    fields, mixer = hf.decoder_fields(config), hf.first(config, Attention)
    return {
        **fields,
        **hf_layers.kind_fields(config),
        "hidden_activation": fields["hidden_act"],
        "attention_bias": hf.has_bias(config, "wq"),
        "query_pre_attn_scalar": query_scalar(mixer.scale, mixer.head_dim),
        "attn_logit_softcapping": mixer.softcap,
        "final_logit_softcapping": config.logit_softcap,
    }


def _implied(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What llama.cpp takes where the metadata says nothing, and of the size of the model."""
    is_27b = fields["num_hidden_layers"] == 46
    by_heads = fields["hidden_size"] // fields["num_attention_heads"]
    return {
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        **fields,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": by_heads if is_27b else fields["head_dim"],
    }


FAMILY = Family(
    architecture="Gemma2ForCausalLM",
    model_type="gemma2",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=tensors.HF_SANDWICH,
    gguf_architecture="gemma2",
    gguf_rules=tensors.GGUF_ONE_PLUS,
    gguf_unembeds=False,
    gguf_fields={
        "attention.sliding_window": "sliding_window",
        "attn_logit_softcapping": "attn_logit_softcapping",
        "final_logit_softcapping": "final_logit_softcapping",
    },
    gguf_implied=_implied,
)
