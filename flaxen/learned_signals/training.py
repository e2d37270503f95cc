"""Trains a head: divides examples, fits, calibrates, and measures on what was held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from flaxen.learned_signals.encoder import Encoder
from flaxen.learned_signals.examples import Example
from flaxen.learned_signals.fingerprint import ANCHORS
from flaxen.learned_signals.fitting import (
    Targets,
    cross_entropy,
    fit_temperature,
    threshold_for,
)
from flaxen.learned_signals.harm import (
    fit_to_pieces,
    moved,
    read_pieces,
    suspicions,
    with_long,
    worst,
)
from flaxen.learned_signals.head import BY_PIECE, HARMLESS, Activation, Head
from flaxen.learned_signals.measuring import report_on
from flaxen.learned_signals.windows import Vectors

_DECAYS = (1e-5, 1e-4, 3e-4, 1e-3)
Part = tuple[list[Vectors], Targets]  # the pieces of each text, and the texts' targets
_PART_OF = {3: "calibration", 5: "held out"}  # of seven groups of a label; the others are fitted


async def train(
    task: str,
    examples: Sequence[Example],
    encoder: Encoder,
    *,
    seed: int = 0,
    false_alarms: float = 0.01,
) -> Head:
    """Trains a head of a task.

    The groups of examples are divided by the seed: five of seven are fitted to, one chooses the
    decay, the temperature and the thresholds, and one is held out for the report. The same
    examples, seed and encoder give the same head.

    Args:
      false_alarms: the share of texts without a label that may reach its threshold.

    Raises:
      ValueError: there are fewer than two labels, or too few groups to hold some out.
    """
    labels = tuple(sorted({label for example in examples for label in example.labels}))
    activation: Activation = "softmax"
    if any(len(example.labels) != 1 for example in examples):
        activation = "sigmoid"
    parts = divide(examples, seed)
    rows = {
        part: [index for index, of in enumerate(parts) if of == part]
        for part in ("fitted", "calibration", "held out")
    }
    for part, indices in rows.items():
        if not indices:
            raise ValueError(
                f"no examples are {part}: give each label seven groups of examples or more"
            )
    texts = [example.text for example in examples]
    by_piece = task in BY_PIECE
    if by_piece:
        pieces = await read_pieces(texts, encoder)
    else:
        pieces = [vector[None] for vector in await encoder.pooled(texts)]
    targets = np.array(
        [[label in example.labels for label in labels] for example in examples], np.float64
    )
    of = {part: ([pieces[i] for i in some], targets[some]) for part, some in rows.items()}
    weights, bias = _best(of["fitted"], of["calibration"], labels, activation)
    some, y = with_long(*of["calibration"], labels, seed) if by_piece else of["calibration"]
    x = worst(some, weights, bias, labels)
    head = Head(
        task=task,
        labels=labels,
        weights=weights,
        bias=bias,
        anchors=await encoder.pooled(ANCHORS),
        activation=activation,
        temperature=fit_temperature(x @ weights.T + bias, y, activation),
    )
    thresholds = _thresholds(head, x, y, false_alarms)
    harmful = [label for label in labels if label not in HARMLESS]
    if by_piece and activation == "softmax" and (len(labels), len(harmful)) == (2, 1):
        head = replace(head, bias=moved(head, thresholds[harmful[0]]))
        thresholds = _thresholds(head, x, y, false_alarms)
    if by_piece:
        calm = [texts[i] for i in rows["calibration"] if set(examples[i].labels) <= {*HARMLESS}]
        head = replace(head, suspicions=await suspicions(head, calm, encoder, seed))
    some, y = of["held out"]
    report = report_on(head, thresholds, worst(some, weights, bias, labels), y)
    numbers = {part: len(indices) for part, indices in rows.items()}
    settings = {"seed": seed, "false_alarms_asked_for": false_alarms, "examples": numbers}
    return replace(head, thresholds=thresholds, report=settings | report)


def _thresholds(head: Head, x: Vectors, y: Targets, false_alarms: float) -> dict[str, float]:
    shares = head(x)
    return {
        label: min(threshold_for(shares[y[:, column] == 0, column].tolist(), false_alarms), 1.0)
        for column, label in enumerate(head.labels)
    }


def divide(examples: Sequence[Example], seed: int) -> list[str]:
    """The part of each example: fitted, calibration or held out, the same for all of a group.

    Groups of a label are put in an order that depends on the seed alone, so that each label has
    some in each part.
    """
    names: dict[str, tuple[str, ...]] = {example.group: example.labels for example in examples}
    by_labels: dict[tuple[str, ...], list[str]] = {}
    for group in sorted(names, key=lambda group: _place(group, seed)):
        by_labels.setdefault(names[group], []).append(group)
    part_of = {
        group: _PART_OF.get(place % 7, "fitted")
        for groups in by_labels.values()
        for place, group in enumerate(groups)
    }
    return [part_of[example.group] for example in examples]


def _place(group: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{group}".encode("utf-8", "replace")).digest()


def _best(
    fitted: Part, other: Part, labels: Sequence[str], activation: Activation
) -> tuple[Vectors, Vectors]:
    """The weights and bias of the decay whose cross-entropy on other texts is the least."""
    shares = np.full(other[1].shape, 1 / len(other[1]))
    found = [fit_to_pieces(*fitted, labels, activation, decay) for decay in _DECAYS]
    losses = []
    for w, b in found:
        logits = worst(other[0], w, b, labels) @ w.T + b
        losses.append(cross_entropy(logits.astype(np.float64), other[1], activation, shares)[0])
    return found[int(np.argmin(losses))]
