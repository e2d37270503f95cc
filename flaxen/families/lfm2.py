"""The dense LFM2 family: layers of gated short convolutions, with attention between them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from flaxen.families import hf, state_fields, tensors
from flaxen.families.family import Family
from flaxen.families.hf_rope import rope_config
from flaxen.families.hf_values import flag, positive, whole
from flaxen.families.rules import as_is, matrix, taps, with_rules
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import Attention, QkNorm
from flaxen.models.layers.norm import Norm
from flaxen.models.layers.short_conv import ShortConv


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    return convolutional(fields)


def convolutional(fields: Mapping[str, Any], reads: Collection[str] = ()) -> DecoderConfig:
    """The same for a family with this one's layers, which reads fields that this one refuses."""
    norm = Norm(eps=positive(fields, "norm_eps", 1e-5))
    tied = {"tied": fields.get("tie_embedding", fields.get("tie_word_embeddings", True))}
    theta = positive(fields, "rope_theta", 1_000_000.0)
    config = hf.decoder_config(
        fields,
        attention={
            "qk_norm": QkNorm(norm=norm),
            "rope": rope_config({**fields, "rope_theta": theta}),
        },
        mlp={"mlp_dim": _mlp_dim(fields)},
        norm=norm,
        tied_embeddings=flag(tied, "tied"),
        reads=reads,
        refused=("sliding_window", "attention_bias", "mlp_bias"),
    )
    convolution = ShortConv(
        num_channels=config.model_dim,
        num_taps=whole(fields, "conv_L_cache", default=3),
        has_bias=flag(fields, "conv_bias"),
    )
    return state_fields.with_mixer(config, convolution, _kinds(fields), "conv")


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    unused = ShortConv(num_channels=config.model_dim, num_taps=3)
    convolution = hf.first(config, ShortConv, unused)
    fields = hf.decoder_fields(config)
    return {
        **fields,
        "norm_eps": fields.pop("rms_norm_eps"),
        "tie_embedding": config.tied_embeddings,
        "block_auto_adjust_ff_dim": False,
        "conv_L_cache": convolution.num_taps,
        "conv_bias": convolution.has_bias,
        "layer_types": [
            "full_attention" if isinstance(layer.mixer, Attention) else "conv"
            for layer in config.layers
        ],
    }


def _kinds(fields: Mapping[str, Any]) -> Any:
    """The field layer_types, or what older files have in its place."""
    kinds = fields.get("layer_types")
    if kinds is not None:
        return kinds
    numbers = range(hf.num_layers(fields))
    chosen = fields.get("full_attn_idxs")
    with_attention = numbers if chosen is None else chosen
    return ["full_attention" if number in with_attention else "conv" for number in numbers]


def _mlp_dim(fields: Mapping[str, Any]) -> int:
    """F, which older files give before it is multiplied and rounded up."""
    name = "intermediate_size" if fields.get("block_ff_dim") is None else "block_ff_dim"
    size = whole(fields, name)
    adjusts = fields.get("block_auto_adjust_ff_dim", True)
    if not flag({"block_auto_adjust_ff_dim": adjusts}, "block_auto_adjust_ff_dim"):
        return size
    size = 2 * size // 3
    if fields.get("block_ffn_dim_multiplier", 1) is not None:
        size = int(positive(fields, "block_ffn_dim_multiplier", 1.0) * size)
        multiple = whole(fields, "block_multiple_of", default=256)
        size = -(-size // multiple) * multiple
    return size


_LAYER = "model.layers.{layer}."

FAMILY = Family(
    architecture="Lfm2ForCausalLM",
    model_type="lfm2",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=with_rules(
        tensors.HF,
        as_is("final_norm", "model.embedding_norm.weight"),
        as_is("attn_norm", _LAYER + "operator_norm.weight"),
        as_is("mlp_norm", _LAYER + "ffn_norm.weight"),
        matrix("wo", _LAYER + "self_attn.out_proj.weight"),
        as_is("q_norm", _LAYER + "self_attn.q_layernorm.weight"),
        as_is("k_norm", _LAYER + "self_attn.k_layernorm.weight"),
        matrix("w_gate", _LAYER + "feed_forward.w1.weight"),
        matrix("w_up", _LAYER + "feed_forward.w3.weight"),
        matrix("w_down", _LAYER + "feed_forward.w2.weight"),
        matrix("w_in", _LAYER + "conv.in_proj.weight"),
        as_is("b_in", _LAYER + "conv.in_proj.bias"),
        taps("conv_weight", _LAYER + "conv.conv.weight"),
        as_is("conv_bias", _LAYER + "conv.conv.bias"),
        matrix("w_out", _LAYER + "conv.out_proj.weight"),
        as_is("b_out", _LAYER + "conv.out_proj.bias"),
    ),
    gguf_architecture="lfm2",
    gguf_rules=with_rules(
        tensors.GGUF,
        as_is("final_norm", "token_embd_norm.weight"),
        matrix("w_in", "blk.{layer}.shortconv.in_proj.weight"),
        matrix("conv_weight", "blk.{layer}.shortconv.conv.weight"),
        matrix("w_out", "blk.{layer}.shortconv.out_proj.weight"),
    ),
    gguf_fields={
        "attention.layer_norm_rms_epsilon": "norm_eps",
        "shortconv.l_cache": "conv_L_cache",
    },
    gguf_lists=("attention.head_count_kv",),
    gguf_implied=lambda fields: {
        **state_fields.of_kv_heads(fields, "conv"),
        "block_auto_adjust_ff_dim": False,
    },
    gguf_keys=state_fields.kv_heads,
    gguf_biases=(),
)
