"""What a head is worth on texts that it was not fitted to: accuracy, calibration, alarms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flaxen.learned_signals.fitting import Targets
from flaxen.learned_signals.head import Head
from flaxen.learned_signals.windows import Vectors

_BINS = 10


def report_on(
    head: Head, thresholds: Mapping[str, float], vectors: Vectors, targets: Targets
) -> dict[str, Any]:
    """The report of a head on vectors [texts, dimensions] and their targets [texts, labels].

    Returns:
      accuracy: the share of texts whose most probable label is right (softmax), or of labels on the
        right side of 0.5 (sigmoid).
      calibration: `calibration_curve` of the probabilities, and its mean error.
      labels: for each the share of its texts that reach its threshold (recall), and of others.
    """
    shares = head(vectors)
    if head.activation == "softmax":
        best = shares.argmax(axis=1)
        right = targets[np.arange(len(targets)), best] == 1
        curve = calibration_curve(shares.max(axis=1), right)
    else:
        right = (shares >= 0.5) == (targets == 1)
        curve = calibration_curve(shares.ravel(), targets.ravel() == 1)
    total = sum(point["texts"] for point in curve)
    error = sum(p["texts"] * abs(p["probability"] - p["right"]) for p in curve) / total
    return {
        "accuracy": _rounded(right.mean()),
        "calibration": {"curve": curve, "mean_error": _rounded(error)},
        "labels": {
            label: _alarms(shares[:, column] >= thresholds[label], targets[:, column] == 1)
            for column, label in enumerate(head.labels)
        },
    }


def calibration_curve(shares: Vectors, right: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """How often a probability was right: for each tenth that some are in, their mean, the share
    that was right, and how many they are."""
    bins = np.minimum((shares * _BINS).astype(int), _BINS - 1)
    return [
        {
            "probability": _rounded(shares[bins == number].mean()),
            "right": _rounded(right[bins == number].mean()),
            "texts": int((bins == number).sum()),
        }
        for number in range(_BINS)
        if (bins == number).any()
    ]


def _alarms(reached: NDArray[np.bool_], has: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "texts": int(has.sum()),
        "recall": _rounded(reached[has].mean()) if has.any() else None,
        "false_alarms": _rounded(reached[~has].mean()) if (~has).any() else None,
    }


def _rounded(value: Any) -> float:
    return round(float(value), 4)
