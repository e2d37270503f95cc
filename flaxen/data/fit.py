"""Chooses how long the rows of a batch are, and how many it has, where the user leaves that open.

Few records fill no batch of the usual size: an epoch of them would be one step, from which nothing
is learned (decision 0244). Deliberately does not know what a record is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flaxen.data.config import DataConfig

LONGEST_ROW = 1024  # tokens
_MOST_ROWS = 8
_ROW_MULTIPLE = 16  # tokens: few distinct row lengths, so that few are compiled
_STEPS_AN_EPOCH = 10  # at least, as far as the records suffice
MOST_RECORDS = 10_000  # more of them are not counted, and fill batches of the largest size


def with_longest_row(config: DataConfig, max_length: int | None) -> DataConfig:
    """The configuration with the longest row that may be chosen, to cut records by.

    Args:
      config: as the user gave it.
      max_length: the most tokens of the model's sequences; None for no limit.
    """
    if config.sequence_length is not None:
        return config
    return replace(config, sequence_length=min(LONGEST_ROW, max_length or LONGEST_ROW))


def fit_rows(
    config: DataConfig,
    lengths: Sequence[int] | None,
    *,
    longest: int,
    pairs: bool,
    multiple: int = 1,
) -> DataConfig:
    """The configuration with both sizes: rows become longer first, and then more.

    Args:
      config: as the user gave it; sizes that it has are kept.
      lengths: the tokens of each sequence (of a pair's longer answer), none longer than `longest`;
        None for more records than it is worth to count.
      longest: the longest row that may be chosen.
      pairs: whether a row is one pair, and not packed.
      multiple: a chosen number of rows is a multiple of this.
    """
    size, length = config.batch_size, config.sequence_length
    if lengths is None:
        wanted, longest_of_all = LONGEST_ROW * _MOST_ROWS, longest
    else:
        wanted, longest_of_all = sum(lengths) // _STEPS_AN_EPOCH, max(lengths, default=1)
    if length is None:
        shared = 0 if pairs else wanted // (size or multiple)
        # An overlap is for texts that are longer than any row.
        needed = longest if config.overlap else max(longest_of_all, min(shared, longest))
        length = min(-(-needed // _ROW_MULTIPLE) * _ROW_MULTIPLE, longest)
    if size is None:
        rows = wanted // length
        if pairs and lengths is not None:
            rows = len(lengths) // _STEPS_AN_EPOCH
        size = -(-max(1, min(_MOST_ROWS, rows)) // multiple) * multiple
    return replace(config, batch_size=size, sequence_length=length)
