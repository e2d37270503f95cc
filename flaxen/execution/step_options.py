"""The inputs of a step that only some steps have.

Deliberately does not know: their use, planning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from flaxen.models.adapters import Adapters
from flaxen.models.model import InputEmbeds
from flaxen.protocol import EmbedSpan
from flaxen.scheduling.plan import Scheduled

Lora = tuple[Adapters, jax.Array]  # a stack of adapters, and their scales


class StepOptions(NamedTuple):
    """Optional inputs of a step. Each combination of them is compiled separately."""

    lora: Lora | None = None
    prompt_embeds: InputEmbeds | None = None  # of the T tokens
    # uint32 scalar: the sampling awaits this ticket's mask [S, ceil(V / 32)].
    mask_ticket: jax.Array | np.uint32 | None = None


def has_prompt_embeds(items: Sequence[Scheduled]) -> bool:
    """Whether embeddings take the place of some of the tokens."""
    return any(_spans(item) for item in items)


def prompt_embeds(
    items: Sequence[Scheduled], num_tokens: int, embed_dim: int | None
) -> InputEmbeds | None:
    """The embeddings in place of some of T tokens, on the host; None where there are none."""
    if not has_prompt_embeds(items):
        return None
    assert embed_dim is not None, "embeddings for a model that takes none"
    values, is_given = np.zeros((num_tokens, embed_dim), np.float32), np.zeros(num_tokens, bool)
    first = 0  # of the item's tokens in the step
    for item in items:
        for span in _spans(item):
            begin, end = max(span.start, item.start), min(span.end, item.start + item.num_tokens)
            into = slice(first + begin - item.start, first + end - item.start)
            values[into] = span.values[begin - span.start : end - span.start]
            is_given[into] = True
        first += item.num_tokens
    return InputEmbeds(values, is_given)  # type: ignore[arg-type]  # NumPy's


def _spans(item: Scheduled) -> list[EmbedSpan]:
    """The spans of embeddings that an item's tokens touch."""
    end = item.start + item.num_tokens
    spans = item.sequence.prompt_embeds
    return [span for span in spans if span.start < end and span.end > item.start]
