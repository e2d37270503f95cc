"""The GPT-2 family: a table of positions, layer norms with biases, and weights stored [in, out]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flaxen.families import hf, tensors
from flaxen.families.family import Family
from flaxen.families.hf_values import flag, whole
from flaxen.families.rules import Rules, Split, TensorRule, as_is
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import Attention
from flaxen.models.layers.mlp import DenseMlp

_NAMES = {  # field of config.json -> that of most families
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
}
_RULES: Rules = (
    as_is("embed", "transformer.wte.weight"),
    as_is("positions", "transformer.wpe.weight"),
    as_is("final_norm", "transformer.ln_f.weight"),
    as_is("final_norm_bias", "transformer.ln_f.bias"),
    as_is("unembed", "lm_head.weight"),
    as_is("attn_norm", "transformer.h.{layer}.ln_1.weight"),
    as_is("attn_norm_bias", "transformer.h.{layer}.ln_1.bias"),
    TensorRule(
        params=("wq", "wk", "wv"),
        tensors=("transformer.h.{layer}.attn.c_attn.weight",),
        steps=(Split((1, 1, 1), axis=1),),
    ),
    TensorRule(
        params=("bq", "bk", "bv"),
        tensors=("transformer.h.{layer}.attn.c_attn.bias",),
        steps=(Split((1, 1, 1)),),
    ),
    as_is("wo", "transformer.h.{layer}.attn.c_proj.weight"),
    as_is("bo", "transformer.h.{layer}.attn.c_proj.bias"),
    as_is("mlp_norm", "transformer.h.{layer}.ln_2.weight"),
    as_is("mlp_norm_bias", "transformer.h.{layer}.ln_2.bias"),
    as_is("w_up", "transformer.h.{layer}.mlp.c_fc.weight"),
    as_is("b_up", "transformer.h.{layer}.mlp.c_fc.bias"),
    as_is("w_down", "transformer.h.{layer}.mlp.c_proj.weight"),
    as_is("b_down", "transformer.h.{layer}.mlp.c_proj.bias"),
)


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    shared = {usual: whole(fields, name) for name, usual in _NAMES.items()}
    shared["intermediate_size"] = whole(fields, "n_inner", default=4 * shared["hidden_size"])
    is_scaled = flag({"scale_attn_weights": True, **fields}, "scale_attn_weights")
    scale = None if is_scaled else 1.0
    config = hf.decoder_config(
        {"tie_word_embeddings": True, **fields, **shared},
        attention={
            "rope": None,
            "biases": ("wq", "wk", "wv", "wo"),
            "scale": scale,
        },
        mlp={
            "activation": hf.activation(fields, "activation_function", "gelu_new"),
            "is_gated": False,
            "biases": ("w_up", "w_down"),
        },
        norm=hf.layer_norm(fields, "layer_norm_epsilon", bias=True),
        learned_positions=True,
    )
    if not flag(fields, "scale_attn_by_inverse_layer_idx"):
        return config
    mixer = hf.first(config, Attention)
    base = mixer.head_dim**-0.5 if scale is None else scale
    scales = [scale, *(base / number for number in range(2, len(config.layers) + 1))]
    return config.with_layers(
        lambda number, layer: replace(layer, mixer=replace(mixer, scale=scales[number]))
    )


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    shared, mlp = hf.decoder_fields(config), hf.first(config, DenseMlp)
    mixer = hf.first(config, Attention)
    by_layer = any(layer.mixer != mixer for layer in config.layers)
    return {
        "vocab_size": config.vocab_size,
        **{name: shared[usual] for name, usual in _NAMES.items()},
        "n_inner": mlp.mlp_dim,
        "activation_function": hf.ACTIVATION_NAMES[mlp.activation],
        "layer_norm_epsilon": config.final_norm.eps,
        "scale_attn_weights": mixer.scale in (None, mixer.head_dim**-0.5),
        "scale_attn_by_inverse_layer_idx": by_layer,
        "tie_word_embeddings": config.tied_embeddings,
    }


FAMILY = Family(
    architecture="GPT2LMHeadModel",
    model_type="gpt2",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=_RULES,
    hf_prefix="transformer.",
    hf_ignored=(".attn.bias", ".attn.masked_bias"),
    gguf_architecture="gpt2",
    gguf_rules=(*tensors.GGUF_QKV, as_is("positions", "position_embd.weight")),
    gguf_fields={
        "embedding_length": "n_embd",
        "feed_forward_length": "n_inner",
        "block_count": "n_layer",
        "attention.head_count": "n_head",
        "context_length": "n_positions",
        "attention.layer_norm_epsilon": "layer_norm_epsilon",
    },
    gguf_biases=("wq", "wk", "wv", "wo", "w_up", "w_down"),
)
