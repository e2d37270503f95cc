"""The validation loss of adapters. Deliberately does not know jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from flaxen.data.iterate import DataIterator
from flaxen.models.adapters import Adapters
from flaxen.models.model import Params
from flaxen.training.microbatches import split_batch
from flaxen.training.step import TrainStep

# The mean loss and accuracy of a stack of one adapter.
Validation = Callable[[Adapters], tuple[float, float]]


def make_validation(
    step: TrainStep, frozen: Params, batches: DataIterator[Any], on_microbatch: Callable[[], None]
) -> Validation:
    """Makes a function that computes the loss over all batches, a row at a time, as `step` would.

    Args:
      step: the step of a run that trains one adapter.
      frozen: the base model's parameters.
      batches: read from the beginning at each call.
      on_microbatch: called after each row.
    """
    beginning = batches.state()

    @jax.jit
    def evaluate(adapters: Adapters, frozen: Params, rows: Any) -> tuple[jax.Array, jax.Array]:
        def policy(shape: tuple[int, int]) -> Params:
            return step.trainable.assemble(adapters, frozen, shape, jax.random.key(0))

        losses, aux, _ = step.objective.losses(policy, frozen, rows, None)
        return losses.sum(), aux["accuracy"].sum()

    def validate(adapters: Adapters) -> tuple[float, float]:
        batches.restore(beginning)
        loss = accuracy = count = 0.0
        for batch in batches:
            num_rows = jax.tree.leaves(batch)[0].shape[0]
            for rows in split_batch(batch, num_rows):
                in_row = float(step.objective.denominators(rows).sum())
                if not in_row:
                    continue
                found = evaluate(adapters, frozen, rows)
                loss, accuracy = loss + float(found[0]), accuracy + float(found[1])
                count += in_row
                on_microbatch()
        if not count:
            raise ValueError("the validation file has no token with a loss")
        return loss / count, accuracy / count

    return validate
