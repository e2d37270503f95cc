"""How a router chooses experts, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RoutingSpec:
    """Scores of the logits, the choice of experts, and their weights. Hashable.

    With groups (DeepSeek), each E / num_groups neighbours are one; only experts of the
    `groups_used` best groups are chosen, and a group is as good as the sum of its `group_best`
    best experts.

    Raises:
      ValueError: a number is out of range.
    """

    k: int  # experts of a token
    score: str = "softmax"  # or sigmoid
    normalize: bool = True  # the weights of a token are divided by their sum
    epsilon: float = 0.0  # added to that sum
    scale: float = 1.0  # multiplies the weights
    num_groups: int = 1
    groups_used: int = 1
    group_best: int = 1

    def __post_init__(self) -> None:
        if self.k <= 0:
            raise ValueError(f"a token must use at least one expert, got {self.k}")
        if self.score not in ("softmax", "sigmoid"):
            raise ValueError(
                f"the router's score {self.score!r} is not supported: use softmax or sigmoid"
            )
        if not 0 < self.groups_used <= self.num_groups or self.group_best not in (1, 2):
            raise ValueError(
                f"{self.groups_used} of {self.num_groups} groups, by the sum of their "
                f"{self.group_best} best experts, is not supported: use at least one group, no "
                "more than there are, and their best or two best experts"
            )

    def check(self, num_experts: int) -> None:
        """Refuses a number of experts that these settings don't fit.

        Raises:
          ValueError: the experts can't be grouped, or are too few.
        """
        if num_experts % self.num_groups:
            raise ValueError(
                f"{num_experts} experts can't be divided into {self.num_groups} equal groups: use "
                "a number of groups that divides them"
            )
        size = num_experts // self.num_groups
        usable = size * self.groups_used
        if self.k > usable or self.group_best > size:
            raise ValueError(
                f"a token can't use {self.k} of {usable} experts (groups of {size}): use at most "
                f"{usable} experts for a token, and groups of at least {self.group_best}"
            )
