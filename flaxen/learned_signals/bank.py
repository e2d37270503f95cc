"""Bank: the vectors of a rule's texts, and how similar a text is to them as one number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flaxen.learned_signals.windows import Vectors
from flaxen.router.signals.embedded import PrototypeScoring

DEFAULT_SCORING = PrototypeScoring()


@dataclass(frozen=True, eq=False)
class Bank:
    """What texts are compared with: float32 [prototypes, dimensions], rows of length 1."""

    prototypes: Vectors
    best_weight: float
    top_m: int

    def score(self, vector: Vectors) -> float:
        """best_weight of the greatest cosine with a vector of length 1, and the rest of the mean of
        the top_m greatest (0: of all)."""
        cosines = np.sort(self.prototypes @ vector)[::-1]
        top = cosines[: self.top_m] if 0 < self.top_m < len(cosines) else cosines
        return float(self.best_weight * cosines[0] + (1 - self.best_weight) * top.mean())


def make_bank(
    texts: Sequence[str],
    vectors: Vectors,
    scoring: PrototypeScoring = DEFAULT_SCORING,
    aggregation: str = "max",
) -> Bank:
    """The bank of texts.

    Args:
      texts: those of the rule; the same text counts once.
      vectors: theirs, [texts, dimensions], of length 1.
      scoring: how they count.
      aggregation: `mean` is the mean of all; `max` and `any` are as scoring says.
    """
    rows = [index for index, text in enumerate(texts) if text not in texts[:index]]
    texts, vectors = [texts[row] for row in rows], vectors[rows]
    if scoring.enabled:
        kept = _medoids(texts, vectors, scoring.cluster_similarity_threshold)
        vectors = vectors[kept[: scoring.max_prototypes or len(kept)]]
    if aggregation == "mean":
        return Bank(vectors, 0.0, 0)
    return Bank(vectors, scoring.best_weight, scoring.top_m)


def _medoids(texts: Sequence[str], vectors: Vectors, threshold: float) -> list[int]:
    """The middle of each group of texts that are alike, the largest groups first.

    As in the public reference: the largest group around one of the texts is taken, and again of
    those that are left.
    """
    cosines = vectors @ vectors.T
    left = list(range(len(texts)))
    groups: list[tuple[int, float, str, int]] = []  # size, mean cosine, text, row: of each medoid
    while left:
        near = {seed: [row for row in left if cosines[seed, row] >= threshold] for seed in left}
        for seed in left:
            if seed not in near[seed]:  # its cosine with itself may round to less than 1
                near[seed].append(seed)
        seed = max(left, key=lambda row: len(near[row]))
        group = near[seed]
        means = {row: float(cosines[row, group].mean()) for row in group}
        medoid = max(group, key=lambda row: means[row])
        groups.append((len(group), means[medoid], texts[medoid], medoid))
        left = [row for row in left if row not in group]
    groups.sort(key=lambda group: (-group[0], -group[1], group[2]))
    return [row for *_, row in groups]
