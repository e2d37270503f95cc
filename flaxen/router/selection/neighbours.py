"""Neighbours: requests whose best model is known, and how alike they are to another one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Examples:
    """Requests that models answered.

    Attributes:
      vectors: float [examples, dimensions], their embeddings; none is zero.
      models: what answered each.
      scores: float [examples], how good each answer was, from 0 to 1.
      k: how many of them, the nearest, count for a request.

    Raises:
      ValueError: the three are not of one length, or a vector is zero.
    """

    vectors: NDArray[np.float32]
    models: tuple[str, ...]
    scores: NDArray[np.float32]
    k: int = 5

    def __post_init__(self) -> None:
        lengths = len(self.vectors), len(self.models), len(self.scores)
        if len(set(lengths)) != 1:
            raise ValueError(f"there are {lengths} vectors, models and scores: give each example")
        if not np.all(np.linalg.norm(self.vectors, axis=1) > 0):
            raise ValueError("the vector of an example is zero, so that nothing is alike to it")


def votes(
    examples: Examples, query: Sequence[float] | Vector, models: Collection[str]
) -> dict[str, float]:
    """What the nearest examples say of models: the sum of cosine times score, of each model, as a
    share of all. Only examples of these models count, and of equals the first.

    Returns:
      The shares of the models that have one; empty if nothing is alike.

    Raises:
      ValueError: the query has other dimensions than the examples.
    """
    vector = np.asarray(query, np.float32)
    if vector.shape != examples.vectors.shape[1:]:
        raise ValueError(
            f"the query has {vector.size} dimensions and the examples {examples.vectors.shape[1]}: "
            "embed both by the same model"
        )
    of_models = np.array([model in models for model in examples.models], bool)
    rows = np.flatnonzero(of_models)
    kept = examples.vectors[rows]
    lengths = np.linalg.norm(kept, axis=1) * max(float(np.linalg.norm(vector)), 1e-30)
    cosines = (kept @ vector) / lengths
    totals: dict[str, float] = {}
    for index in np.argsort(-cosines, kind="stable")[: examples.k]:
        value = max(float(cosines[index]), 0.0) * float(examples.scores[rows[index]])
        if value > 0:
            model = examples.models[rows[index]]
            totals[model] = totals.get(model, 0.0) + value
    whole = sum(totals.values())
    return {model: total / whole for model, total in totals.items()}
