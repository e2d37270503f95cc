"""Tensors whose last axis counts outputs, as AWQ and GPTQ have them: some outputs at a time.

Deliberately does not know the order of numbers in a word.
"""

from __future__ import annotations

import numpy as np

from flaxen.tensors.tensor import StoredTensor
from flaxen.tensors.views import narrowed

# Outputs that are read at once: each input's are a short piece of the file, so few pieces are slow.
ROW_UNIT = 1024


def read_columns(tensor: StoredTensor, start: int, stop: int) -> np.ndarray:
    """Columns from start to stop of a tensor [rows, columns]."""
    if (start, stop) != (0, tensor.shape[1]):
        tensor = narrowed(tensor, 1, start, stop)
    return tensor.read(0, tensor.shape[0])


def read_words(
    tensor: StoredTensor, per_word: int, start: int, stop: int
) -> tuple[np.ndarray, int]:
    """The words that hold outputs from start to stop, each of `per_word` outputs, and the place of
    output `start` in them.
    """
    first = start // per_word
    return read_columns(tensor, first, -(-stop // per_word)), start - first * per_word
