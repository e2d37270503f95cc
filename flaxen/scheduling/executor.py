"""The interface of what runs the engine's steps: a device, or a test's fake.

Deliberately does not know JAX.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flaxen.protocol import AdapterWeights, Request, TokenLogprobs
from flaxen.scheduling.plan import Scheduled, StepPlan
from flaxen.scheduling.sequence import Sequence as EngineSequence


class RowFailure(enum.Enum):
    """Why a sampling row got no token. The values are a step's status codes; 0 is success."""

    NOT_FINITE = 1  # its logits contain NaN or infinity, and perhaps its pages too
    NO_TOKEN_ALLOWED = 2  # the request's options forbid every token; its pages are good


@dataclass(kw_only=True, slots=True)
class StepResult:
    """The samples of a step: one entry for each of the plan's items."""

    # The accepted drafts and one more token; empty if the item does not sample.
    tokens: list[list[int]]
    failures: list[RowFailure | None]  # why a sampling item has no further token
    logprobs: list[list[TokenLogprobs]]  # of the tokens; empty unless the request has logprobs


class Executor(abc.ABC):
    """Runs steps in the order of dispatch. Only one thread at a time may call it."""

    vocab_size: int

    def warm_up(self) -> bool:
        """Compiles one more program in advance; returns False if none was left. Safe to call from
        another thread than the one that runs steps.
        """
        return False

    @abc.abstractmethod
    def row_settings(self, request: Request) -> Any:
        """The settings of the rows of a request's sequences, without seed and tokens.

        Safe to call from any thread. Only this executor interprets them; it gets them back in
        Sequence.row_settings.

        Raises:
          ValueError: a row has no room for what the request needs.
        """

    @abc.abstractmethod
    def check_inputs(self, request: Request) -> None:
        """Checks that the model can take a request's embeddings, and pool.

        Raises:
          FieldError: it can't.
        """

    @abc.abstractmethod
    def load(self, sequence: EngineSequence, row: int) -> None:
        """Writes a sequence's settings and known tokens to its row, after the dispatched steps."""

    @abc.abstractmethod
    def check_adapter(self, adapter: AdapterWeights) -> None:
        """Raises ValueError if the adapter fits into no slot. Safe to call from any thread."""

    @abc.abstractmethod
    def content_key(self, adapter: AdapterWeights) -> str:
        """A hash of all that an adapter computes with. Safe to call from any thread."""

    @abc.abstractmethod
    def load_adapter(self, slot: int, adapter: AdapterWeights) -> None:
        """Fills a slot with an adapter, after the dispatched steps."""

    @abc.abstractmethod
    def set_adapter_stack(self, stack: Any, scales: Any) -> int:
        """Serves a trainer's stack of adapters without copying it; None goes back to the slots.

        Returns:
          The stack's rank; 0 for None.

        Raises:
          ValueError: the stack does not fit the model, or its size differs from that of the scales.
        """

    @abc.abstractmethod
    def set_params(self, params: Any, *, are_owned: bool) -> None:
        """Uses other parameters, by reference, as in SteppedEngine.

        Raises:
          ValueError: they do not fit the model.
        """

    @abc.abstractmethod
    def sleep(self, *, keeps_weights: bool) -> None:
        """Frees the memory of its state, and of the weights, or moves these to the host. Then
        `reset` makes new state, and `wake_weights` or `set_params` brings weights.
        """

    @abc.abstractmethod
    def wake_weights(self) -> None:
        """Moves weights that `sleep` has kept back to the device."""

    @abc.abstractmethod
    def dispatch(self, plan: StepPlan) -> Any:
        """Starts a step without waiting for it, and returns a handle for `fetch`.

        If a sequence that samples has a grammar, the step samples only when `sample` is called.
        """

    @abc.abstractmethod
    def sample(self, plan: StepPlan, handle: Any, bitmasks: np.ndarray) -> None:
        """Lets a step with grammars sample, before the next one is dispatched.

        Args:
          plan: the step's plan.
          handle: what `dispatch` returned.
          bitmasks: the tokens that are allowed, 1 + drafts lines for each item, from
            `fill_bitmasks`.
        """

    def is_done(self, handle: Any) -> bool:
        """Whether `fetch` would not wait. Only several engines on one thread ask."""
        return True

    @abc.abstractmethod
    def fetch(self, plan: StepPlan, handle: Any) -> StepResult:
        """Waits for a step and returns its samples."""

    @abc.abstractmethod
    def prompt_logprobs(
        self, plan: StepPlan, handle: Any, item: Scheduled, targets: list[int], num_top: int
    ) -> list[TokenLogprobs]:
        """The log-probabilities of the tokens that follow the item's first len(targets) ones."""

    @abc.abstractmethod
    def hidden_states(self, plan: StepPlan, handle: Any, item: Scheduled) -> np.ndarray:
        """The hidden states of an item's tokens after the final norm, [n, D] float32."""

    def vector(self, pooled: np.ndarray) -> np.ndarray:
        """What a prompt's pooled hidden state [D] becomes: itself, or the logits of the model's
        classification head [L]; float32.
        """
        return pooled

    def expert_load(self) -> tuple[tuple[int, ...], ...]:
        """The tokens that each expert got in the fetched steps, for each layer that has experts.
        Safe to call from any thread.
        """
        return ()

    @abc.abstractmethod
    def read_pages(self, pages: Sequence[Sequence[int]]) -> Callable[[], list[np.ndarray]]:
        """Starts to read pages of each cache group, as they are after the dispatched steps.

        Args:
          pages: of each group; the groups must keep tokens.

        Returns:
          A function for any thread, which waits, and returns the bytes of each group's pages, uint8
          [n, bytes of a page]. It raises what broke the steps before.
        """

    @abc.abstractmethod
    def write_pages(
        self, pages: Sequence[Sequence[int]], contents: Sequence[Sequence[np.ndarray]]
    ) -> None:
        """Writes the bytes of pages into each cache group, before the next step is dispatched.

        Args:
          pages: of each group.
          contents: a row of what `read_pages` returned for each of its pages.
        """

    @abc.abstractmethod
    def reset(self) -> None:
        """Makes new, empty state after a step failed: what the old one held is lost."""
