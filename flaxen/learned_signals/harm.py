"""Fits heads of harm to the pieces of texts: a text is harmful if one of its pieces is.

Which piece that is, no example says: the head does, which is fitted to its own choice a few times
(multiple-instance learning).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flaxen.learned_signals.encoder import Encoder
from flaxen.learned_signals.fitting import Targets, fit, threshold_for
from flaxen.learned_signals.head import HARMLESS, Activation, Head
from flaxen.learned_signals.windows import Vectors

_ROUNDS = 3
_LONG = 8  # harmless texts in a long one
_SUSPECT = 0.1  # the share of harmless pieces in long texts that may be read alone
_MOST_LONG = 96  # long texts that are read to choose which pieces are suspect


async def read_pieces(texts: Sequence[str], encoder: Encoder) -> list[Vectors]:
    """The vectors of each text's pieces, every one read alone: [pieces, dimensions]."""
    found: list[Vectors] = []
    for begin in range(0, len(texts), 256):
        some = texts[begin : begin + 256]
        windows = await asyncio.gather(*(encoder.windows(t, with_pieces=True) for t in some))
        found += await asyncio.gather(*(encoder.alone(each.pieces) for each in windows))
    return found


def fit_to_pieces(
    pieces: Sequence[Vectors],
    targets: Targets,
    labels: Sequence[str],
    activation: Activation,
    decay: float,
) -> tuple[Vectors, Vectors]:
    """Weights and bias, as `fit` gives them.

    Args:
      pieces: of each text.
      targets: of the texts [texts, labels]. Those without harm hold for all pieces of a text.
    """
    harmful = (targets * _harm_of(labels)).max(axis=1).tolist()
    chosen = list(pieces)
    for _ in range(_ROUNDS if max(map(len, pieces)) > 1 else 1):
        rows = np.repeat(targets, [len(some) for some in chosen], axis=0)
        weights, bias = fit(np.concatenate(chosen), rows, activation, decay)
        chosen = [
            worst([some], weights, bias, labels) if is_harm else some
            for some, is_harm in zip(pieces, harmful, strict=True)
        ]
    return weights, bias


def worst(
    pieces: Sequence[Vectors], weights: Vectors, bias: Vectors, labels: Sequence[str]
) -> Vectors:
    """The most harmful piece of each text, [texts, dimensions]."""
    is_harm = _harm_of(labels)
    rows = []
    for some in pieces:
        logits = some @ weights.T + bias
        harm = logits[:, is_harm].max(axis=1)
        rest = logits[:, ~is_harm].max(axis=1, initial=-np.inf) if not is_harm.all() else 0
        rows.append(some[int(np.argmax(harm - rest))])
    return np.stack(rows)


def with_long(
    pieces: Sequence[Vectors], targets: Targets, labels: Sequence[str], seed: int
) -> tuple[list[Vectors], Targets]:
    """Texts, and as many long ones without harm that are made of theirs: a long text has more
    pieces that may alarm."""
    calm = np.flatnonzero(~(targets * _harm_of(labels)).any(axis=1))
    draw = random.Random(seed)
    longer = [
        np.concatenate([pieces[number] for number in draw.choices(calm, k=_LONG)]) for _ in calm
    ]
    return [*pieces, *longer], np.concatenate([targets, targets[calm]])


def moved(head: Head, threshold: float) -> Vectors:
    """The bias with which the harmful one of two labels has 0.5 where it had the threshold, so that
    files' thresholds of 0.5 have the rate of false alarms that was asked for."""
    shift = head.temperature * float(np.log(threshold / (1 - threshold)))
    return np.asarray(head.bias - np.float32(shift) * _harm_of(head.labels), np.float32)


async def suspicions(
    head: Head, texts: Sequence[str], encoder: Encoder, seed: int
) -> dict[str, float]:
    """From which probability on a piece of a text is read alone, for each harmful label.

    Args:
      texts: without harm, of which long ones are made.
    """
    if not texts:
        return {}
    draw = random.Random(seed)
    num = min(_MOST_LONG, len(texts))
    longer = [" ".join(draw.choices(texts, k=_LONG)) for _ in range(num)]
    windows = await asyncio.gather(*(encoder.windows(t, with_pieces=True) for t in longer))
    shares = head(np.concatenate([each.in_context for each in windows]))
    return {
        label: threshold_for(shares[:, column].tolist(), _SUSPECT)
        for column, label in enumerate(head.labels)
        if label not in HARMLESS
    }


def _harm_of(labels: Sequence[str]) -> NDArray[np.bool_]:
    return np.array([label not in HARMLESS for label in labels])
