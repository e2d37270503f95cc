"""The inputs of a step that only some steps have.

Deliberately does not know: their use, planning.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import NamedTuple

import jax
import numpy as np

from flaxen.engine.grammar import num_mask_words
from flaxen.engine.plan import Scheduled
from flaxen.models.adapters import Adapters

Lora = tuple[Adapters, jax.Array]  # a stack of adapters, and their scales


class StepOptions(NamedTuple):
    """Optional inputs of a step. Each combination of them is compiled separately."""

    lora: Lora | None = None
    # [S, ceil(V / 32)] uint32, as in `sampling.sample`; a NumPy array until the step is dispatched.
    grammar_bitmask: jax.Array | np.ndarray | None = None


def grammar_bitmask(items: Items[Scheduled], num_seqs: int, vocab_size: int) -> np.ndarray | None:
    """The bitmasks of S sequences, on the host; None if no sequence has a grammar."""
    if not any(item.samples and item.sequence.grammar is not None for item in items):
        return None
    bitmask = np.full((num_seqs, num_mask_words(vocab_size)), 0xFFFF_FFFF, np.uint32)
    for line, item in zip(bitmask, items, strict=False):
        if item.sequence.grammar is not None:
            line[:] = item.sequence.grammar.bitmask
    return bitmask
