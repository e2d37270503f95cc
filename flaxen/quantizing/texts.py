"""Reads calibration tokens from files, as training reads its data."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import numpy as np

from flaxen.data.config import DataConfig
from flaxen.data.opening import open_data
from flaxen.quantizing.calibrate import Texts
from flaxen.weights.checkpoint import Checkpoint

_ROWS = 4  # computed at once
_LENGTH = 512  # tokens of a row, if the model's length allows


def read_texts(
    checkpoint: Checkpoint, files: tuple[Path, ...], num_rows: int, length: int | None
) -> list[Texts]:
    """The calibration tokens, in batches of a few rows.

    Args:
      checkpoint: the model.
      files: of records.
      num_rows: the most that are read.
      length: tokens of a row; None chooses it.

    Raises:
      ValueError: the rows are too long for the model, or a record is bad.
      OSError: a file can't be read.
    """
    longest = checkpoint.model.max_position
    length = length or min(_LENGTH, longest)
    if length > longest:
        raise ValueError(
            f"--sequence-length is {length}, and the model was made for {longest} tokens: lower it"
        )
    rows = min(_ROWS, num_rows)
    config = DataConfig(files=files, batch_size=rows, sequence_length=length)
    data = open_data(config, checkpoint.make_tokenizer(), vocab_size=checkpoint.model.vocab_size)
    with contextlib.closing(data):
        batches = list(itertools.islice(data, -(-num_rows // rows)))
    return [
        Texts(np.where(each.segment_ids > 0, each.tokens, -1), each.positions, each.segment_ids)
        for each in batches
    ]
