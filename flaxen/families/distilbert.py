"""The DistilBERT family: BERT without token types, with other names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.families import hf
from flaxen.families.encoder_family import EncoderFamily, activation, check_encoder
from flaxen.families.hf_values import whole
from flaxen.families.rules import as_is, matrix
from flaxen.models.encoder_config import EncoderConfig
from flaxen.models.head import HeadConfig

_LAYER = "transformer.layer.{layer}."


def config_from_hf(fields: Mapping[str, Any]) -> EncoderConfig:
    """The encoder's configuration from config.json. `sinusoidal_pos_embds` only says how the table
    of positions began.

    Raises:
      ValueError: a field is missing or not supported.
    """
    check_encoder(fields, harmless=("sinusoidal_pos_embds",))
    return EncoderConfig(
        vocab_size=whole(fields, "vocab_size"),
        model_dim=whole(fields, "dim"),
        mlp_dim=whole(fields, "hidden_dim"),
        num_layers=_num_layers(fields),
        num_heads=whole(fields, "n_heads"),
        norm_eps=1e-12,
        activation=activation(fields, "activation"),
        max_position=whole(fields, "max_position_embeddings"),
    )


def _num_layers(fields: Mapping[str, Any]) -> int:
    return hf.num_layers({"num_hidden_layers": fields.get("n_layers")})


FAMILY = EncoderFamily(
    name="DistilBert",
    model_type="distilbert",
    prefix="distilbert.",
    config_from_hf=config_from_hf,
    head=HeadConfig(num_labels=2, dense="relu"),
    hf_rules=(
        as_is("embed", "embeddings.word_embeddings.weight"),
        as_is("positions", "embeddings.position_embeddings.weight"),
        as_is("embed_norm", "embeddings.LayerNorm.weight"),
        as_is("embed_norm_bias", "embeddings.LayerNorm.bias"),
        matrix("wq", _LAYER + "attention.q_lin.weight"),
        as_is("bq", _LAYER + "attention.q_lin.bias"),
        matrix("wk", _LAYER + "attention.k_lin.weight"),
        as_is("bk", _LAYER + "attention.k_lin.bias"),
        matrix("wv", _LAYER + "attention.v_lin.weight"),
        as_is("bv", _LAYER + "attention.v_lin.bias"),
        matrix("wo", _LAYER + "attention.out_lin.weight"),
        as_is("bo", _LAYER + "attention.out_lin.bias"),
        as_is("attn_norm", _LAYER + "sa_layer_norm.weight"),
        as_is("attn_norm_bias", _LAYER + "sa_layer_norm.bias"),
        matrix("w_up", _LAYER + "ffn.lin1.weight"),
        as_is("b_up", _LAYER + "ffn.lin1.bias"),
        matrix("w_down", _LAYER + "ffn.lin2.weight"),
        as_is("b_down", _LAYER + "ffn.lin2.bias"),
        as_is("mlp_norm", _LAYER + "output_layer_norm.weight"),
        as_is("mlp_norm_bias", _LAYER + "output_layer_norm.bias"),
        matrix("head_dense", "pre_classifier.weight"),
        as_is("head_dense_bias", "pre_classifier.bias"),
        matrix("head", "classifier.weight"),
        as_is("head_bias", "classifier.bias"),
    ),
    ignored=("vocab_transform.", "vocab_layer_norm.", "vocab_projector."),
)
