"""Head: a linear layer on an encoder's vector, which gives a probability for each label.

Deliberately does not know: files, how it was fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flaxen.learned_signals.windows import Vectors

Activation = Literal["softmax", "sigmoid"]
TASKS = (
    "domain",
    "fact_check",
    "user_feedback",
    "jailbreak",
    "pii",
    "complexity",
    "modality",
    "safety",
    "classifier",
)
# Harm hides in a sentence of a long text: it is looked for in each piece, and the worst one counts
# (decision 0359). An own classifier is asked of each window; what a text is about, of the whole.
BY_PIECE = ("jailbreak", "pii", "safety")
# Labels of texts without harm. They hold for all pieces of a text, others for one at least.
HARMLESS = ("benign", "safe")


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """A classifier on the vectors of one encoder.

    Attributes:
      task: which signals it finds, one of TASKS.
      labels: of its numbers.
      weights, bias: float32 [labels, dimensions] and [labels].
      activation: softmax where a text has one label, sigmoid where it may have any number.
      temperature: by which the numbers are divided, so that the probabilities mean what they say.
      thresholds: of a label the probability from which it counts, for the rate of false alarms that
        was asked for; a label without one counts from 0.5.
      suspicions: of a label the probability that a piece has where it stands, from which it is read
        alone; of no other label it is. Without any, all pieces are read alone.
      anchors: the encoder's vectors of ANCHORS, [anchors, dimensions]: its fingerprint.
      report: what was measured when it was fitted.

    Raises:
      ValueError: the task is unknown, or the parts do not fit together.
    """

    task: str
    labels: tuple[str, ...]
    weights: Vectors
    bias: Vectors
    anchors: Vectors
    activation: Activation = "softmax"
    temperature: float = 1.0
    thresholds: Mapping[str, float] = field(default_factory=dict)
    suspicions: Mapping[str, float] = field(default_factory=dict)
    report: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"the task {self.task!r} is unknown: use one of {', '.join(TASKS)}")
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ValueError(f"a head needs two labels or more, each once, got {self.labels}")
        num, dimensions = len(self.labels), self.anchors.shape[-1]
        if self.weights.shape != (num, dimensions) or self.bias.shape != (num,):
            raise ValueError(
                f"the head has weights {self.weights.shape} and bias {self.bias.shape} for {num} "
                f"labels and {dimensions} dimensions: its file was changed, so train it again"
            )
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        unknown = {*self.thresholds, *self.suspicions} - set(self.labels)
        if unknown:
            raise ValueError(f"thresholds name {sorted(unknown)[0]!r}, which is no label")

    @property
    def reads_windows(self) -> bool:
        """Whether each window of a text is asked, instead of the whole."""
        return self.task == "classifier"

    @property
    def reads_pieces(self) -> bool:
        """Whether each piece of a text is asked."""
        return self.task in BY_PIECE

    def suspects(self, in_context: Vectors) -> NDArray[np.intp]:
        """The numbers of the pieces that are to be read alone, by what is said of them where they
        stand, [pieces, dimensions]."""
        if not self.suspicions or not len(in_context):
            return np.arange(len(in_context))
        least = [self.suspicions.get(label, np.inf) for label in self.labels]
        return np.flatnonzero((self(in_context) >= least).any(axis=1))

    def probabilities(self, logits: Vectors) -> NDArray[np.float32]:
        """The probabilities [..., labels] of its numbers [..., labels]."""
        scaled = logits / np.float32(self.temperature)
        if self.activation == "sigmoid":
            return np.asarray(0.5 * (1 + np.tanh(scaled / 2)), np.float32)
        powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)

    def __call__(self, vectors: Vectors) -> NDArray[np.float32]:
        """The probabilities [..., labels] of vectors [..., dimensions]."""
        return self.probabilities(vectors @ self.weights.T + self.bias)


class HeadStack:
    """Heads of one encoder as one product.

    Args:
      heads: by the names under which they are asked.
    """

    def __init__(self, heads: Mapping[str, Head]) -> None:
        self.heads = dict(heads)
        self.reads_pieces = any(head.reads_pieces for head in heads.values())
        self._ends: dict[str, slice] = {}
        begin = 0
        for name, head in self.heads.items():
            self._ends[name] = slice(begin, begin + len(head.labels))
            begin += len(head.labels)
        some = list(self.heads.values())
        self._weights = np.concatenate([head.weights for head in some]).T if some else None
        self._bias = np.concatenate([head.bias for head in some]) if some else None

    def logits(self, vectors: Vectors) -> Mapping[str, Vectors]:
        """The numbers of each head for vectors [n, dimensions]: [n, labels]."""
        if self._weights is None or self._bias is None:
            return {}
        # Row by row, so that a window's bits do not depend on how many there are.
        rows = np.stack([row @ self._weights for row in vectors]) + self._bias
        return {name: rows[:, part] for name, part in self._ends.items()}
