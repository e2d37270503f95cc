"""The calls by which an engine uses its devices, with numbers and NumPy arrays.

Each is small and complete, so that other processes can be told to make the same calls in the same
order (`processes`). Deliberately does not know: requests, plans, who makes the calls.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from flaxen.execution.page_copies import PageParts
from flaxen.execution.programs import Program
from flaxen.execution.rows import RowBias, RowSettings
from flaxen.execution.sampling import BatchNeeds, Sampled
from flaxen.models.model import InputEmbeds
from flaxen.token_sampling.logprobs import Logprobs
from flaxen.weights.adapters.adapter import Adapter


class StepOutput(NamedTuple):
    """The results of a step, on the device."""

    number: int  # of the step
    sampled: Sampled
    hidden: jax.Array  # [T, D]
    # int32 [sum of E over the layers with experts], the tokens of each; None without experts, or
    # with embeddings in place of tokens
    expert_load: jax.Array | None


class DeviceCalls(abc.ABC):
    """The parameters, KV pool, rows and adapters of an engine, and all that is computed with them.

    Calls take effect in their order. Only one thread at a time may make them, but for `compile`
    and `check_adapter`, which any may.
    """

    @abc.abstractmethod
    def compile(self, program: Program) -> None:
        """Compiles a program of the step without running it."""

    @abc.abstractmethod
    def reset(self) -> None:
        """Makes a new, empty KV pool, rows and slots of adapters."""

    @abc.abstractmethod
    def load_row(self, row: int, settings: RowSettings, known: np.ndarray) -> None:
        """Writes a row's settings and known tokens [max length]."""

    @abc.abstractmethod
    def load_bias(self, row: int, bias: RowBias) -> None:
        """Writes a row's logit bias."""

    @abc.abstractmethod
    def check_adapter(self, adapter: Adapter) -> None:
        """Raises ValueError if the adapter fits into no slot."""

    @abc.abstractmethod
    def compile_adapter_load(self) -> None:
        """Compiles what `load_adapter` runs; the slots must be empty."""

    @abc.abstractmethod
    def load_adapter(self, slot: int, layers: Sequence[Any], scale: float) -> None:
        """Fills a slot with the layers of an adapter."""

    @abc.abstractmethod
    def step(
        self,
        program: Program,
        packed: np.ndarray,
        needs: BatchNeeds,
        prompt_embeds: InputEmbeds | None,
    ) -> StepOutput:
        """Starts a step, packed by `StepLayout.pack`, and does not wait for it."""

    @abc.abstractmethod
    def forward(
        self,
        program: Program,
        packed: np.ndarray,
        needs: BatchNeeds,
        prompt_embeds: InputEmbeds | None,
    ) -> None:
        """Starts a step whose sampling waits for a mask. `sample` must follow, and nothing before
        that needs a computation.
        """

    @abc.abstractmethod
    def sample(self, grammar_bitmask: np.ndarray) -> StepOutput:
        """Lets the step sample that `forward` began.

        Args:
          grammar_bitmask: [P, ceil(V / 32)] uint32, as in `sampling.sample`: a line for each
            position at which the step samples, and perhaps a few more.
        """

    @abc.abstractmethod
    def prompt_logprobs(self, hidden: np.ndarray, targets: np.ndarray) -> Logprobs:
        """The log-probabilities of the tokens [C] that follow the hidden states [C, D]."""

    @abc.abstractmethod
    def final_norm(self, number: int) -> jax.Array:
        """The hidden states [T, D] of one of the last two steps, after the final norm."""

    @abc.abstractmethod
    def head(self, pooled: np.ndarray) -> jax.Array:
        """The logits [L] of the model's classification head for a pooled vector [D]."""

    @abc.abstractmethod
    def read_pages(self, group: int, pages: np.ndarray) -> PageParts:
        """Starts to read pages [n] int32 of a cache group, as they are after the steps that were
        started; `page_copies.joined` waits for their bytes.
        """

    @abc.abstractmethod
    def write_pages(self, group: int, pages: np.ndarray, contents: Sequence[np.ndarray]) -> None:
        """Writes the bytes of pages [n], uint8 [bytes of a page] each, before the next step."""

    @abc.abstractmethod
    def set_params(self, params: Any, are_owned: bool) -> None:
        """Uses other parameters, as in Executor."""

    @abc.abstractmethod
    def sleep(self, keeps_weights: bool) -> None:
        """Frees KV pool, rows, slots of adapters and weights, as in Executor."""

    @abc.abstractmethod
    def wake_weights(self) -> None:
        """Moves weights back to the device, as in Executor."""

    @abc.abstractmethod
    def set_adapter_stack(self, stack: Any, scales: Any) -> int:
        """Uses a trainer's stack of adapters, as in Executor."""

    @abc.abstractmethod
    def finish(self) -> None:
        """The last call: waits for the last step. It may read parameters that XLA does not hold."""
