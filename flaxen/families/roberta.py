"""The RoBERTa families: RoBERTa, CamemBERT and XLM-RoBERTa, with BGE-M3, multilingual E5 and others
that share the architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flaxen.families import bert
from flaxen.families.encoder_family import EncoderFamily
from flaxen.families.rules import as_is, matrix
from flaxen.models.encoder_config import EncoderConfig
from flaxen.models.head import HeadConfig


def config_from_hf(fields: Mapping[str, Any]) -> EncoderConfig:
    """The encoder's configuration from config.json.

    The rows of the table of positions up to that of the padding token's id are not used.

    Raises:
      ValueError: a field is missing or not supported.
    """
    config = bert.config_from_hf(fields)
    padding = fields.get("pad_token_id", 1)
    if isinstance(padding, bool) or not isinstance(padding, int) or padding < 0:
        raise ValueError(f"pad_token_id must be a token id, got {padding!r}")
    offset = padding + 1
    if config.max_position <= offset:
        raise ValueError(
            f"max_position_embeddings must be above pad_token_id + 1 ({offset}), because positions "
            f"begin there, got {config.max_position}"
        )
    return replace(config, max_position=config.max_position - offset, position_offset=offset)


ROBERTA = EncoderFamily(
    name="Roberta",
    model_type="roberta",
    prefix="roberta.",
    config_from_hf=config_from_hf,
    head=HeadConfig(num_labels=2, dense="tanh"),
    hf_rules=(
        *bert.ENCODER_RULES,
        matrix("head_dense", "classifier.dense.weight"),
        as_is("head_dense_bias", "classifier.dense.bias"),
        matrix("head", "classifier.out_proj.weight"),
        as_is("head_bias", "classifier.out_proj.bias"),
    ),
    ignored=("pooler.", "lm_head.", "embeddings.position_ids"),
)
XLM_ROBERTA = replace(ROBERTA, name="XLMRoberta", model_type="xlm-roberta")
CAMEMBERT = replace(ROBERTA, name="Camembert", model_type="camembert")
