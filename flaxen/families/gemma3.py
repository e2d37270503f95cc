"""The Gemma 3 family of texts: Gemma 2 without softcaps, with norms of query and key heads, and two
ropes: one of the layers that slide, one of those that see all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.families import hf, hf_layers, tensors
from flaxen.families.family import Family
from flaxen.families.hf_layers import FULL, SLIDING
from flaxen.families.hf_rope import rope_fields
from flaxen.families.hf_values import optional, positive, query_scalar, require_present, whole
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import Attention, QkNorm
from flaxen.models.rope_config import RopeConfig

_THETAS = {FULL: 1_000_000.0, SLIDING: 10_000.0}


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    require_present(fields, "head_dim", "num_key_value_heads", "query_pre_attn_scalar")
    kinds = hf_layers.layer_kinds(fields, pattern=6)
    norm, ropes = hf.rms_norm(fields, one_plus=True), _ropes(fields)
    config = hf.decoder_config(
        {"tie_word_embeddings": True, **fields},
        attention={
            "biases": hf.attention_biases(fields),
            "scale": positive(fields, "query_pre_attn_scalar") ** -0.5,
            "qk_norm": QkNorm(norm=norm),
            "rope": ropes[FULL],
        },
        mlp={"activation": hf.activation(fields, "hidden_activation", "gelu_pytorch_tanh")},
        norm=norm,
        layer={"order": "sandwich"},
        embed_scale=whole(fields, "hidden_size") ** 0.5,
        logit_softcap=optional(fields, "final_logit_softcapping"),
        reads=("hidden_act", "hidden_activation", "final_logit_softcapping"),
        refused=("mlp_bias",),
    )
    window = hf_layers.sliding_window(fields, kinds)
    return hf_layers.with_kinds(
        config, kinds, {SLIDING: {"window": window, "rope": ropes[SLIDING]}}
    )


def _ropes(fields: Mapping[str, Any]) -> dict[str, RopeConfig]:
    nested = hf_layers.ropes(fields, _THETAS)
    if nested is not None:
        return nested
    local = positive(fields, "rope_local_base_freq", _THETAS[SLIDING])
    theta = positive(fields, "rope_theta", _THETAS[FULL])
    return {
        FULL: hf_layers.kind_rope({**fields, "rope_theta": theta}),
        SLIDING: RopeConfig(theta=local),
    }


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    fields, mixer = hf.decoder_fields(config), hf.first(config, Attention)
    ropes = dict(zip(hf.layer_types(config), hf_layers.layer_ropes(config), strict=True))
    full, local = (ropes.get(kind) or RopeConfig(theta=_THETAS[kind]) for kind in (FULL, SLIDING))
    rope = {**rope_fields(full), "rope_local_base_freq": local.theta}
    if local.kind != "default":  # the older spelling can't say this
        rope = {"rope_parameters": hf_layers.nested_fields({FULL: full, SLIDING: local})}
    return {
        **{name: each for name, each in fields.items() if name not in hf_layers.ROPE_FIELDS},
        **hf_layers.kind_fields(config),
        **rope,
        "hidden_activation": fields["hidden_act"],
        "attention_bias": hf.has_bias(config, "wq"),
        "query_pre_attn_scalar": query_scalar(mixer.scale, mixer.head_dim),
        "final_logit_softcapping": config.logit_softcap,
    }


def _implied(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What llama.cpp takes where the metadata says nothing, and of the size of the model."""
    is_27b = fields["num_hidden_layers"] == 62
    by_heads = fields["hidden_size"] // fields["num_attention_heads"]
    return {
        "rope_theta": 10_000.0,
        **fields,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": by_heads if is_27b else fields["head_dim"],
    }


FAMILY = Family(
    architecture="Gemma3ForCausalLM",
    model_type="gemma3_text",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=tensors.HF_SANDWICH,
    gguf_architecture="gemma3",
    gguf_rules=tensors.GGUF_ONE_PLUS,
    gguf_fields={
        "attention.sliding_window": "sliding_window",
        "final_logit_softcapping": "final_logit_softcapping",
        "rope.freq_base_swa": "rope_local_base_freq",
    },
    gguf_implied=_implied,
)
