"""What a model without output tokens does with a prompt: the vector that it pools, and what is made
of it. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from flaxen.protocol.inputs import Pooling

PoolingTask = Literal["embed", "classify"]
# What turns the logits of labels into the scores that are answered.
ScoreActivation = Literal["softmax", "sigmoid", "none"]


@dataclass(frozen=True, kw_only=True)
class PoolingInfo:
    """How a model pools a prompt, and what its vector means."""

    task: PoolingTask
    pooling: Pooling
    normalize: bool = True  # embed: vectors have the length 1
    # embed: the lengths to which a vector may be cut; () allows any up to its own.
    dimensions: tuple[int, ...] = ()
    # embed: texts to put before a prompt, by names such as "query".
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None  # the name of that which is used if none is named
    labels: tuple[str, ...] = ()  # classify: one for each number of the vector
    activation: ScoreActivation = "none"  # classify
    # The id of a token of type 1 is its own plus this; 0: the model has no second type.
    token_type_stride: int = 0
    max_tokens: int | None = None  # the longest input that the model was trained for

    @property
    def scores_pairs(self) -> bool:
        """Whether the model reads both texts of a pair at once and gives one score: a
        cross-encoder, or a reward model.
        """
        return self.task == "classify" and len(self.labels) == 1
