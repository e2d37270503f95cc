"""Adapts the rules and configuration to a directory's tensors where config.json differs.

As in transformers, the tensors decide whether names have the prefix of a causal language model, and
whether embedding and unembedding are tied. Deliberately does not know families or files.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from flaxen.families.rules import Rules, as_is, tensor_of, with_rules
from flaxen.models.config import DecoderConfig
from flaxen.tensors.tensor import StoredTensor

_LOG = logging.getLogger(__name__)
_PIECE = 1 << 20  # values compared at once


def fit_names(rules: Rules, prefix: str, tensors: Mapping[str, StoredTensor]) -> Rules:
    """The rules of a family, without the prefix of the model under the head if no tensor has it.

    transformers writes no prefix if the base model (`AutoModel`) was saved.

    Args:
      rules: the family's.
      prefix: with its dot.
      tensors: the files' tensors.
    """
    plain = tuple(
        replace(rule, tensors=tuple(name.removeprefix(prefix) for name in rule.tensors))
        for rule in rules
    )
    has_prefix = any(name.startswith(prefix) for name in tensors)
    return plain if tensor_of(plain, "embed") in tensors and not has_prefix else rules


def fit_tables(
    config: DecoderConfig, rules: Rules, tensors: Mapping[str, StoredTensor]
) -> tuple[DecoderConfig, Rules]:
    """Adapts configuration and rules to the stored embedding and unembedding.

    - tied, and both tables are there and differ: the model is not tied;
    - not tied, and only the embedding is there: the model is tied;
    - tied, and only the unembedding is there: it is the embedding.

    The first two are logged, because config.json says otherwise.

    Args:
      config: the configuration from config.json.
      rules: the family's rules.
      tensors: the files' tensors.

    Raises:
      ValueError: a file changed during the comparison.
    """
    head_name = tensor_of(rules, "unembed")
    embed, head = tensors.get(tensor_of(rules, "embed")), tensors.get(head_name)
    if not config.tied_embeddings:
        if embed is None or head is not None:
            return config, rules
        _LOG.warning(
            "config.json says tie_word_embeddings = false, and there is no tensor %s: the "
            "embedding is used in its place. If the model has one, its weights are incomplete; "
            "else set tie_word_embeddings to true",
            head_name,
        )
        return replace(config, tied_embeddings=True), rules
    if head is None:
        return config, rules
    if embed is None:
        return config, with_rules(rules, as_is("embed", head_name))
    if _are_equal(embed, head):
        return config, rules
    _LOG.warning(
        "config.json says tie_word_embeddings = true, and the tensors %s and %s differ: each is "
        "used for its own purpose, as in transformers. Set tie_word_embeddings to false",
        embed.name,
        head.name,
    )
    return replace(config, tied_embeddings=False), rules


def _are_equal(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two tensors are equal; reads in pieces up to the first difference."""
    if one.shape != other.shape:
        return False
    num_rows = one.shape[0] if one.shape else 1
    step = max(1, _PIECE // max(1, int(np.prod(one.shape[1:]))))
    for start in range(0, num_rows, step):
        stop = min(start + step, num_rows)
        a, b = (each.read(start, stop).astype(np.float32) for each in (one, other))
        if not np.array_equal(a, b, equal_nan=True):
            return False
    return True
