"""Fits a head to vectors and labels: weights, temperature, thresholds. Pure functions.

Deliberately does not know: encoders, files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar

from flaxen.learned_signals.head import Activation
from flaxen.learned_signals.windows import Vectors

Targets = NDArray[np.float64]  # [texts, labels], 1 where a text has the label


def fit(
    vectors: Vectors, targets: Targets, activation: Activation, decay: float
) -> tuple[Vectors, Vectors]:
    """Weights [labels, dimensions] and bias [labels] of the least cross-entropy.

    The function is convex and the start is zero, so that the result depends on the data alone.
    Labels count the same, however many texts have them.

    Args:
      decay: of the weights' squares.
    """
    x = vectors.astype(np.float64)
    num, size = targets.shape[1], x.shape[1]
    if activation == "softmax":
        rows = (targets / np.maximum(targets.sum(axis=0), 1)).sum(axis=1, keepdims=True)
        shares = np.broadcast_to(rows / rows.sum(), targets.shape)
    else:
        positive = targets / np.maximum(targets.sum(axis=0), 1)
        negative = (1 - targets) / np.maximum((1 - targets).sum(axis=0), 1)
        shares = (positive + negative) / (2 * num)

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights, bias = flat[: num * size].reshape(num, size), flat[num * size :]
        value, by_logit = cross_entropy(x @ weights.T + bias, targets, activation, shares)
        gradient = np.concatenate([(by_logit.T @ x + 2 * decay * weights).ravel(), by_logit.sum(0)])
        return value + decay * float((weights**2).sum()), gradient

    start = np.zeros(num * (size + 1))
    flat = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    weights = flat[: num * size].reshape(num, size)
    return weights.astype(np.float32), flat[num * size :].astype(np.float32)


def cross_entropy(
    logits: NDArray[np.float64],
    targets: Targets,
    activation: Activation,
    shares: NDArray[np.float64],
) -> tuple[float, NDArray[np.float64]]:
    """The cross-entropy, in which each text and label counts its share, and its derivative by the
    logits [texts, labels]."""
    if activation == "sigmoid":
        log_other = -np.logaddexp(0, logits)  # of the probability that the label does not hold
        losses = -(targets * (log_other + logits) + (1 - targets) * log_other)
        return float((shares * losses).sum()), shares * (1 - np.exp(log_other) - targets)
    top = logits.max(axis=1, keepdims=True)
    logs = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    return float(-(shares * targets * logs).sum()), shares * (np.exp(logs) - targets)


def fit_temperature(logits: Vectors, targets: Targets, activation: Activation) -> float:
    """The temperature with the least cross-entropy on texts that the head was not fitted to."""
    shares = np.full(targets.shape, 1 / len(targets))

    def loss(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) / np.exp(log_temperature)
        return cross_entropy(scaled, targets, activation, shares)[0]

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def threshold_for(shares: Sequence[float], false_alarms: float) -> float:
    """The least threshold which at most the given part of texts without the label reach.

    Args:
      shares: the probabilities of the label for texts that do not have it.
      false_alarms: from 0 to 1.
    """
    if not len(shares):
        return 0.5
    ordered = np.sort(np.asarray(shares))[::-1]
    return float(np.nextafter(np.float32(ordered[int(false_alarms * len(ordered))]), np.float32(2)))
