"""What the engine asks of whatever runs its steps: a device, or a test's fake computed by hand.

Deliberately does not know JAX.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Sequence as Ids
from dataclasses import dataclass
from typing import Any

from flaxen.engine.plan import Scheduled, StepPlan
from flaxen.engine.sequence import Sequence
from flaxen.protocol import AdapterWeights, Request, TokenLogprobs


class RowFailure(enum.Enum):
    """Why a row that samples has no token. The values are those of a step's status, 0 is none."""

    NOT_FINITE = 1  # its logits hold NaN or infinity, and perhaps its pages do
    NO_TOKEN_ALLOWED = 2  # what the request asked for forbids every token; its pages are good


@dataclass(kw_only=True, slots=True)
class StepResult:
    """What a step sampled: one entry for each of the plan's items."""

    tokens: list[list[int]]  # the drafts that are right, and one more; empty where nothing samples
    failures: list[RowFailure | None]  # why no token comes after these, where the item samples
    logprobs: list[list[TokenLogprobs]]  # of the tokens; empty unless the sequence asked for them


class Executor(abc.ABC):
    """Runs steps in the order in which they are dispatched. One thread at a time may call it."""

    vocab_size: int

    def warm_up(self) -> bool:
        """Makes one more step shape ready, ahead of its need. False: there is none left."""
        return False

    @abc.abstractmethod
    def row_settings(self, request: Request) -> Any:
        """What the row of each of a request's sequences is loaded with, beside seed and tokens.

        Any thread may call. It is this executor's, and is given back in Sequence.row_settings.

        Raises:
          ValueError: a row can't hold what the request asks for.
        """

    @abc.abstractmethod
    def load(self, sequence: Sequence, row: int) -> None:
        """Writes a sequence's settings and known tokens to its row, after the steps dispatched."""

    @abc.abstractmethod
    def check_adapter(self, adapter: AdapterWeights) -> None:
        """Raises ValueError if no slot could hold the adapter. Any thread may call."""

    @abc.abstractmethod
    def load_adapter(self, slot: int, adapter: AdapterWeights) -> None:
        """Fills a slot with an adapter, after the steps dispatched."""

    @abc.abstractmethod
    def set_adapter_stack(self, stack: Any, scales: Any) -> int:
        """Takes another's stack of adapters by reference, in place of the slots; None ends that.

        Returns:
          Its rank; 0 for None.

        Raises:
          ValueError: the stack is not of the model, or has not one adapter for each scale.
        """

    @abc.abstractmethod
    def set_params(self, params: Any) -> None:
        """Takes other parameters by reference. Raises ValueError if they are not of the model."""

    @abc.abstractmethod
    def dispatch(self, plan: StepPlan) -> Any:
        """Starts a step, and returns a handle for `fetch` without waiting for it."""

    @abc.abstractmethod
    def fetch(self, plan: StepPlan, handle: Any) -> StepResult:
        """Waits for a step."""

    @abc.abstractmethod
    def score_prompt(
        self, plan: StepPlan, handle: Any, item: Scheduled, targets: Ids[int], num_top: int
    ) -> list[TokenLogprobs]:
        """Log-probabilities of the tokens that follow the item's first len(targets) tokens."""

    @abc.abstractmethod
    def reset(self) -> None:
        """Makes new, empty state after a step failed: what the old one held is lost."""
