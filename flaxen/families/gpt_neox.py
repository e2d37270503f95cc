"""The GPT-NeoX family, and Pythia: fused query, key and value by head, rope on a part of a head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.families import hf, tensors
from flaxen.families.family import Family
from flaxen.families.hf_rope import rope_config
from flaxen.families.hf_values import flag
from flaxen.families.rules import Split, TensorRule, renamed, with_rules
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.mlp import DenseMlp

_QKV = Split(("head_dim", "head_dim", "head_dim"), groups="num_heads")
_RULES = with_rules(
    renamed(
        tensors.HF,
        {
            "model.embed_tokens.": "gpt_neox.embed_in.",
            "model.norm.": "gpt_neox.final_layer_norm.",
            "lm_head.": "embed_out.",
            "model.layers.": "gpt_neox.layers.",
            ".self_attn.o_proj.": ".attention.dense.",
            ".up_proj.": ".dense_h_to_4h.",
            ".down_proj.": ".dense_4h_to_h.",
        },
    ),
    TensorRule(
        params=("wq", "wk", "wv"),
        tensors=("gpt_neox.layers.{layer}.attention.query_key_value.weight",),
        steps=(_QKV,),
        transposed=True,
    ),
    TensorRule(
        params=("bq", "bk", "bv"),
        tensors=("gpt_neox.layers.{layer}.attention.query_key_value.bias",),
        steps=(_QKV,),
    ),
)


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    theta = fields.get("rotary_emb_base") or fields.get("rope_theta")
    rope = rope_config(
        {**fields, "rope_theta": theta}, default_partial=0.25, partial_name="rotary_pct"
    )
    has_biases = flag({"attention_bias": True, **fields}, "attention_bias")
    is_parallel = flag({"use_parallel_residual": True, **fields}, "use_parallel_residual")
    return hf.decoder_config(
        {**fields, "num_key_value_heads": None},
        attention={
            "rope": rope,
            "biases": ("wq", "wk", "wv", "wo") if has_biases else (),
        },
        mlp={
            "activation": hf.activation(fields, "hidden_act", "gelu"),
            "is_gated": False,
            "biases": ("w_up", "w_down"),
        },
        norm=hf.layer_norm(fields, "layer_norm_eps", bias=True),
        layer={"order": "parallel_two_norms" if is_parallel else "pre"},
        reads=("hidden_act", "partial_rotary_factor"),
        refused=("head_dim",),
    )


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    fields = hf.decoder_fields(config)
    return {
        **fields,
        "head_dim": None,
        "rotary_emb_base": fields["rope_theta"],
        "rotary_pct": fields.pop("partial_rotary_factor", 1.0),
        "layer_norm_eps": config.final_norm.eps,
        "hidden_act": hf.ACTIVATION_NAMES[hf.first(config, DenseMlp).activation],
        "attention_bias": hf.has_bias(config, "wq"),
        "use_parallel_residual": config.layers[0].order != "pre",
    }


FAMILY = Family(
    architecture="GPTNeoXForCausalLM",
    model_type="gpt_neox",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=_RULES,
    hf_prefix="gpt_neox.",
    hf_ignored=("attention.bias", "attention.masked_bias"),
    gguf_architecture="gptneox",
    gguf_rules=tensors.GGUF_QKV,
    gguf_biases=("wq", "wk", "wv", "wo", "w_up", "w_down"),
    gguf_share="rotary_pct",
    gguf_fields={
        "attention.layer_norm_epsilon": "layer_norm_eps",
        "use_parallel_residual": "use_parallel_residual",
    },
    gguf_implied=lambda fields: {"head_dim": None},  # it is hidden_size / num_attention_heads
)
