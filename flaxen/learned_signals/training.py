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
    fit,
    fit_temperature,
    threshold_for,
)
from flaxen.learned_signals.head import Activation, Head
from flaxen.learned_signals.measuring import report_on
from flaxen.learned_signals.windows import Vectors

_DECAYS = (1e-5, 1e-4, 3e-4, 1e-3)
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
    vectors = await encoder.pooled([example.text for example in examples])
    targets = np.array(
        [[label in example.labels for label in labels] for example in examples], np.float64
    )
    of = {part: (vectors[indices], targets[indices]) for part, indices in rows.items()}
    weights, bias = _best(*of["fitted"], *of["calibration"], activation)
    x, y = of["calibration"]
    head = Head(
        task=task,
        labels=labels,
        weights=weights,
        bias=bias,
        anchors=await encoder.pooled(ANCHORS),
        activation=activation,
        temperature=fit_temperature(x @ weights.T + bias, y, activation),
    )
    shares = head(x)
    thresholds = {
        label: min(threshold_for(shares[y[:, column] == 0, column].tolist(), false_alarms), 1.0)
        for column, label in enumerate(labels)
    }
    report = report_on(head, thresholds, *of["held out"])
    numbers = {part: len(indices) for part, indices in rows.items()}
    settings = {"seed": seed, "false_alarms_asked_for": false_alarms, "examples": numbers}
    return replace(head, thresholds=thresholds, report=settings | report)


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
    x: Vectors, y: Targets, other_x: Vectors, other_y: Targets, activation: Activation
) -> tuple[Vectors, Vectors]:
    """The weights and bias of the decay whose cross-entropy on other texts is the least."""
    shares = np.full(other_y.shape, 1 / len(other_y))
    fitted = [fit(x, y, activation, decay) for decay in _DECAYS]
    losses = [
        cross_entropy((other_x @ w.T + b).astype(np.float64), other_y, activation, shares)[0]
        for w, b in fitted
    ]
    return fitted[int(np.argmin(losses))]
