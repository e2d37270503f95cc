"""Refuses batches with token ids for which the model has no embedding.

A compiled step can't refuse them: it would read another row of the table, or give NaN. Deliberately
does not know where batches come from; for records of files, data.encode names the record first.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from flaxen.data.batch import Batch


def check_token_ids(batches: Any, vocab_size: int) -> None:
    """Checks every Batch in a tree, on the host.

    Args:
      batches: a tree of Batch.
      vocab_size: the rows of the model's embedding table.

    Raises:
      ValueError: a token or a target with a loss is outside the table.
    """
    leaves = jax.tree.leaves(batches, is_leaf=lambda each: isinstance(each, Batch))
    for batch in leaves:
        if isinstance(batch, Batch):
            _check("token", batch.tokens, np.asarray(batch.segment_ids) > 0, vocab_size)
            _check("target", batch.targets, np.asarray(batch.loss_weights) != 0, vocab_size)


def _check(name: str, token_ids: Any, counts: np.ndarray, vocab_size: int) -> None:
    token_ids = np.asarray(token_ids)
    wrong = counts & ((token_ids < 0) | (token_ids >= vocab_size))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"the batch holds the {name} id {token_ids[row, column]} in row {row} at {column}, "
            f"outside the model's vocabulary of {vocab_size} tokens: the tokenizer is not the "
            "model's, or got tokens that the model has no embeddings for"
        )
