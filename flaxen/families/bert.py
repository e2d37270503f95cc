"""The BERT family: BERT, MiniLM, BGE, E5, GTE and what else shares the architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.families import hf
from flaxen.families.encoder_family import EncoderFamily, activation, check_encoder, norm_eps
from flaxen.families.hf_values import whole
from flaxen.families.rules import Rules, as_is, matrix
from flaxen.models.encoder_config import EncoderConfig
from flaxen.models.head import HeadConfig

_LAYER = "encoder.layer.{layer}."
ENCODER_RULES: Rules = (
    as_is("embed", "embeddings.word_embeddings.weight"),
    as_is("positions", "embeddings.position_embeddings.weight"),
    as_is("token_types", "embeddings.token_type_embeddings.weight"),
    as_is("embed_norm", "embeddings.LayerNorm.weight"),
    as_is("embed_norm_bias", "embeddings.LayerNorm.bias"),
    matrix("wq", _LAYER + "attention.self.query.weight"),
    as_is("bq", _LAYER + "attention.self.query.bias"),
    matrix("wk", _LAYER + "attention.self.key.weight"),
    as_is("bk", _LAYER + "attention.self.key.bias"),
    matrix("wv", _LAYER + "attention.self.value.weight"),
    as_is("bv", _LAYER + "attention.self.value.bias"),
    matrix("wo", _LAYER + "attention.output.dense.weight"),
    as_is("bo", _LAYER + "attention.output.dense.bias"),
    as_is("attn_norm", _LAYER + "attention.output.LayerNorm.weight"),
    as_is("attn_norm_bias", _LAYER + "attention.output.LayerNorm.bias"),
    matrix("w_up", _LAYER + "intermediate.dense.weight"),
    as_is("b_up", _LAYER + "intermediate.dense.bias"),
    matrix("w_down", _LAYER + "output.dense.weight"),
    as_is("b_down", _LAYER + "output.dense.bias"),
    as_is("mlp_norm", _LAYER + "output.LayerNorm.weight"),
    as_is("mlp_norm_bias", _LAYER + "output.LayerNorm.bias"),
)


def config_from_hf(fields: Mapping[str, Any]) -> EncoderConfig:
    """The encoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    check_encoder(fields)
    return EncoderConfig(
        vocab_size=whole(fields, "vocab_size"),
        model_dim=whole(fields, "hidden_size"),
        mlp_dim=whole(fields, "intermediate_size"),
        num_layers=hf.num_layers(fields),
        num_heads=whole(fields, "num_attention_heads"),
        norm_eps=norm_eps(fields, 1e-12),
        activation=activation(fields, "hidden_act"),
        max_position=whole(fields, "max_position_embeddings"),
        num_token_types=whole(fields, "type_vocab_size", default=2),
    )


FAMILY = EncoderFamily(
    name="Bert",
    model_type="bert",
    prefix="bert.",
    config_from_hf=config_from_hf,
    head=HeadConfig(num_labels=2, dense="tanh"),
    hf_rules=(
        *ENCODER_RULES,
        matrix("head_dense", "pooler.dense.weight"),
        as_is("head_dense_bias", "pooler.dense.bias"),
        matrix("head", "classifier.weight"),
        as_is("head_bias", "classifier.bias"),
    ),
    ignored=("pooler.", "cls.", "embeddings.position_ids"),
)
