"""The bitmasks of the grammars of a step's sequences.

They are made while the device computes the step, because they are needed only when it samples.
Deliberately does not know: when that is, JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from flaxen.engine import sequence as sequences
from flaxen.engine.grammar import num_mask_words
from flaxen.engine.plan import Scheduled

_ALL = 0xFFFF_FFFF  # allows 32 tokens


def has_grammar(items: Sequence[Scheduled]) -> bool:
    """Whether a sequence that samples has a grammar."""
    return any(item.samples and item.sequence.grammar is not None for item in items)


def grammar_bitmasks(
    items: Sequence[Scheduled],
    vocab_size: int,
    on_failure: Callable[[sequences.Sequence, Exception], None],
) -> np.ndarray:
    """Asks the grammars of a step's sequences, whose other tokens have all reached the host.

    Args:
      items: the step's items.
      vocab_size: V.
      on_failure: called with each sequence whose grammar failed; its line then allows all tokens.

    Returns:
      A line for each item, [items, ceil(V / 32)] uint32; all tokens where there is no grammar.
    """
    bitmasks = np.full((len(items), num_mask_words(vocab_size)), _ALL, np.uint32)
    for line, item in zip(bitmasks, items, strict=True):
        grammar = item.sequence.grammar
        if grammar is None or not item.samples or item.sequence.ended:
            continue
        try:
            grammar.fill(line)
        except Exception as error:  # whatever it is, it is this grammar's own
            line[:] = _ALL
            on_failure(item.sequence, error)
    return bitmasks
