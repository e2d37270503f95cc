"""The classification head of a decoder: transformers' classes for sequence classification.

They read the last token's hidden state after the final norm, with one matrix, `score`. Deliberately
does not know families.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.families.encoder_family import num_labels
from flaxen.families.rules import matrix
from flaxen.models.head import HeadConfig
from flaxen.weights.huggingface.architecture import architecture

_KIND = "ForSequenceClassification"
SCORE = matrix("head", "score.weight")


def base_architecture(name: str) -> str:
    """The name by which the family of an architecture is known, with or without a head."""
    return name.removesuffix(_KIND) + "ForCausalLM" if name.endswith(_KIND) else name


def decoder_head(fields: Mapping[str, Any]) -> HeadConfig | None:
    """The head that a config.json names; None for none.

    Raises:
      ValueError: its labels are damaged.
    """
    if not architecture(dict(fields)).endswith(_KIND):
        return None
    return HeadConfig(num_labels=num_labels(fields), bias=False)
