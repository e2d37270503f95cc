"""The training loop: batches in, a state out, callbacks after each step.

Deliberately does not know: files, terminals, checkpoints' format, what is trained.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np

from flaxen.data.batch import Batch
from flaxen.models.model import Params
from flaxen.training.microbatches import split_batch
from flaxen.training.state import TrainState
from flaxen.training.step import Compute, StepMetrics, Sums, TrainStep, run_step


class DivergedError(ValueError):
    """The loss or its gradient is NaN or infinite."""


class Batches(Protocol):
    """An iterator of batches whose position can be saved."""

    def __next__(self) -> Any: ...

    def state(self) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class TrainMetrics:
    """The metrics of one step, on the host. Each adapter of a stack has its own value."""

    step: int  # counted from 1
    values: Mapping[str, np.ndarray]  # loss and auxiliary values of the objective; [n] float32
    grad_norm: np.ndarray  # [n] float32, before clipping
    learning_rate: np.ndarray  # [n] float32
    num_tokens: int  # tokens of the batch, without padding
    num_loss_tokens: int  # how many of these have a loss
    seconds: float  # the duration of the step, with the wait for its batch


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """The callbacks of a run, called from its thread."""

    on_metrics: Callable[[TrainMetrics], None] = lambda metrics: None
    # Called after each step with the state and the compute parameters. The next step donates the
    # state's arrays: copy what you keep.
    on_step: Callable[[TrainMetrics, TrainState, Compute], None] = lambda metrics, state, compute: (
        None
    )
    on_microbatch: Callable[[Sums], None] | None = None  # as in run_step
    should_stop: Callable[[], bool] = lambda: False  # asked before each step


def train(
    step: TrainStep,
    state: TrainState,
    frozen: Params,
    batches: Batches,
    *,
    num_steps: int,
    num_microbatches: int = 1,
    callbacks: Callbacks | None = None,
) -> TrainState:
    """Trains until `num_steps` steps in total, the end of the batches, or until a callback stops
    it.

    Args:
      step: the compiled functions.
      state: a new state, or one to resume from; its arrays are donated.
      frozen: parameters that are not trained, or None.
      batches: the batches, which the caller has restored to the state's position.
      num_steps: the steps of the whole run, including those before it was resumed.
      num_microbatches: microbatches of a batch; must divide its rows.
      callbacks: who is told.

    Returns:
      The last state.

    Raises:
      DivergedError: the loss or its gradient is not finite; no callback got that state.
      ValueError: a batch has no loss, or its rows can't be divided into the microbatches.
    """
    callbacks = callbacks or Callbacks()
    compute = step.prepare(state.params)
    number = int(state.step)
    while number < num_steps and not callbacks.should_stop():
        start = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            break
        microbatches = split_batch(batch, num_microbatches, step.trainable.num_groups)
        state, compute, found = run_step(
            step, state, compute, frozen, microbatches, callbacks.on_microbatch
        )
        state = state._replace(data_state=batches.state())
        number += 1
        metrics = _on_host(number, found, batch, start)
        callbacks.on_metrics(metrics)
        callbacks.on_step(metrics, state, compute)
    return state


def _on_host(number: int, found: StepMetrics, batch: Any, start: float) -> TrainMetrics:
    """Waits for the step and copies its metrics. Raises: DivergedError: a metric is not finite."""
    values = {name: np.asarray(value) for name, value in found.values.items()}
    grad_norm = np.asarray(found.grad_norm)
    for name, value in (("loss", values["loss"]), ("gradient's norm", grad_norm)):
        if not np.isfinite(value).all():
            raise DivergedError(
                f"the {name} of step {number} is {', '.join(map(str, value))}: training can't go "
                "on. Lower the learning rate, or warm up for longer"
            )
    num_tokens, num_loss_tokens = count_tokens(batch)
    return TrainMetrics(
        step=number,
        values=values,
        grad_norm=grad_norm,
        learning_rate=np.asarray(found.learning_rate),
        num_tokens=num_tokens,
        num_loss_tokens=num_loss_tokens,
        seconds=time.perf_counter() - start,
    )


def count_tokens(batch: Any) -> tuple[int, int]:
    """Counts, over all Batch in a tree, the tokens that are not padding, and those with a loss."""
    found = jax.tree.leaves(batch, is_leaf=lambda each: isinstance(each, Batch))
    parts = [each for each in found if isinstance(each, Batch)]
    return (
        sum(int((each.segment_ids > 0).sum()) for each in parts),
        sum(int((each.loss_weights != 0).sum()) for each in parts),
    )
