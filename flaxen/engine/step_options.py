"""What a step has only where some sequence of it needs it.

Deliberately does not know: how it is used, how steps are planned.
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
    """None is not compiled in: a step that has another of these is compiled apart."""

    lora: Lora | None = None
    # [S, ceil(V / 32)] uint32, as `sampling.sample` takes it; NumPy's until the step has begun.
    grammar_bitmask: jax.Array | np.ndarray | None = None


def grammar_bitmask(items: Items[Scheduled], num_seqs: int, vocab_size: int) -> np.ndarray | None:
    """What each of S sequences may sample, on the host; None where nobody has a grammar."""
    if not any(item.samples and item.sequence.grammar is not None for item in items):
        return None
    bitmask = np.full((num_seqs, num_mask_words(vocab_size)), 0xFFFF_FFFF, np.uint32)
    for line, item in zip(bitmask, items, strict=False):
        if item.sequence.grammar is not None:
            line[:] = item.sequence.grammar.bitmask
    return bitmask
