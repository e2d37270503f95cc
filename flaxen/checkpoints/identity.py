"""Digests that identify a model, from a sample of each array; fine-tuning changes them too.

Deliberately does not know the use of the weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from flaxen.tensors.tensor import StoredTensor
from flaxen.text.tokenizer import Tokenizer
from flaxen.weights.checkpoint import Checkpoint

_NUM_ROWS = 8  # rows sampled from a tensor in a file
_NUM_VALUES = 256  # values sampled from an array in memory, or from a tensor with one axis

# Tokenizers that split this text in the same way count as equal.
_PROBE = "The 12 quick jörg's (foxes)\n\tdon't = 3.14159; 世界 привет \U0001f98a <|im_end|> </s> "

_Sample = tuple[str, tuple[int, ...], np.ndarray]


def digest_of_files(checkpoint: Checkpoint) -> str:
    """The digest of a model's weights in files, whatever the files' names and number."""
    tensors = sorted(checkpoint.sources.tensors.items())
    return _digest((name, each.shape, _rows(each)) for name, each in tensors)


def digest_of_arrays(params: Any) -> str:
    """The digest of a model's weights as they are in memory: rounded, packed or quantized."""

    def samples() -> Iterable[_Sample]:
        for path, leaf in jax.tree.flatten_with_path(params)[0]:
            values = np.asarray(leaf).reshape(-1)
            places = np.linspace(0, max(values.size - 1, 0), min(values.size, _NUM_VALUES))
            yield jax.tree_util.keystr(path), tuple(leaf.shape), values[places.astype(np.int64)]

    return _digest(samples())


def text_digests(tokenizer: Tokenizer) -> dict[str, str]:
    """The digests of a tokenizer and of its chat template."""
    parts = {
        "tokenizer": (tokenizer.vocab_size, tokenizer.eos_token_ids, tokenizer.encode(_PROBE)),
        "chat_template": tokenizer.chat_template,
    }
    return {
        name: hashlib.blake2b(repr(part).encode(), digest_size=8).hexdigest()
        for name, part in parts.items()
    }


def _rows(tensor: StoredTensor) -> np.ndarray:
    """Some rows, spread evenly; the first values of a tensor with one axis."""
    num_rows = tensor.shape[0] if tensor.shape else 0
    if len(tensor.shape) < 2:
        return tensor.read(0, min(num_rows, _NUM_VALUES))
    places = np.unique(np.linspace(0, num_rows - 1, _NUM_ROWS).astype(np.int64))
    return np.concatenate([tensor.read(int(place), int(place) + 1) for place in places])


def _digest(samples: Iterable[_Sample]) -> str:
    found = hashlib.blake2b(digest_size=8)
    for name, shape, values in samples:
        found.update(f"{name} {shape} {values.dtype} ".encode())
        found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()
