"""One compiled optimizer step: gradients summed over microbatches, then one update.

The microbatches are a loop on the host, so that a server can run between two of them. This is the
only file of training that compiles and donates. Deliberately does not know: files, iterators, where
metrics go.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flaxen.models.model import Params
from flaxen.training.layout import everywhere, keep, keep_state, lay_batch, lay_masters
from flaxen.training.loss import Objective
from flaxen.training.optimizer import Optimizer, Schedule
from flaxen.training.state import TrainState, new_state
from flaxen.training.token_ids import check_token_ids
from flaxen.training.trainable import Trainable

Compute = Any  # the compute parameters, made from the master parameters by Trainable.to_compute


class Sums(NamedTuple):
    """Sums over the microbatches of a step."""

    gradients: Params  # float32, like the master parameters
    values: Mapping[str, jax.Array]  # [n] float32: loss and the objective's auxiliary values


class StepMetrics(NamedTuple):
    """The metrics of one step, [n]: one value for each adapter of a stack, else n = 1."""

    values: Mapping[str, jax.Array]  # the means of the loss and of the objective's auxiliary values
    grad_norm: jax.Array  # before clipping
    learning_rate: jax.Array


@dataclass(frozen=True, kw_only=True)
class TrainStep:
    """The compiled functions of a run, and the parts they were made from."""

    trainable: Trainable
    objective: Objective
    optimizer: optax.GradientTransformation
    # master parameters -> compute parameters; donates nothing
    prepare: Callable[[Params], Compute]
    # master parameters -> empty sums
    zeros: Callable[[Params], Sums]
    # Gets sums (donated), master and compute parameters, frozen, microbatch, key, step, the
    # microbatch's number, denominators. Returns the sums, and the frozen collections that training
    # changed.
    accumulate: Callable[..., tuple[Sums, Mapping[str, Any]]]
    # Gets master parameters and optimizer state (both donated), sums, step, denominators.
    update: Callable[..., tuple[Params, Any, StepMetrics]]


def make_step(
    trainable: Trainable,
    objective: Objective,
    optimizer: Optimizer | optax.GradientTransformation,
    schedule: Schedule,
    learning_rates: Sequence[float],
) -> TrainStep:
    """Combines the parts of a run; each function is compiled when it is first called.

    Args:
      trainable: what is trained.
      objective: what is minimised.
      optimizer: an optimizer for a learning rate of 1: one of ours, or any of Optax.
      schedule: the factor of the learning rates.
      learning_rates: the peak learning rate of each adapter of a stack, else one.

    Raises:
      ValueError: the number of learning rates is wrong.
    """
    if len(learning_rates) != trainable.num_groups:
        raise ValueError(
            f"{len(learning_rates)} learning rates were given for {trainable.num_groups} to train: "
            "give one for each"
        )
    rates = np.asarray(learning_rates, np.float32)
    if not isinstance(optimizer, optax.GradientTransformation):
        optimizer = optimizer(trainable.specs)
    prepare = functools.partial(_prepare, trainable)
    return TrainStep(
        trainable=trainable,
        objective=objective,
        optimizer=optimizer,
        prepare=(lambda masters: masters) if trainable.to_compute is None else jax.jit(prepare),
        zeros=jax.jit(functools.partial(_zeros, trainable, objective.aux)),
        accumulate=jax.jit(
            functools.partial(_accumulate, trainable, objective), donate_argnums=(0,)
        ),
        update=jax.jit(
            functools.partial(_update, trainable, optimizer, schedule, rates),
            donate_argnums=(0, 1),
        ),
    )


def start(
    step: TrainStep, params: Params, seed: int, collections: Mapping[str, Any] | None = None
) -> TrainState:
    """The state before the first step.

    Args:
      step: the step of the run.
      params: float32 master parameters; the state owns them, and the first step donates them.
      seed: the seed of the run's randomness.
      collections: for a Flax definition, all collections but the trained one.
    """
    layout = step.trainable.layout
    params = lay_masters(layout, params)
    opt_state = init_state(step)(params)
    state: TrainState = everywhere(layout, new_state(None, None, seed))
    return state._replace(params=params, opt_state=opt_state, collections=collections)


def init_state(step: TrainStep) -> Callable[[Params], Any]:
    """A jit that makes the optimizer's first state of master parameters."""
    init = step.optimizer.init
    if step.trainable.num_adapters is not None:
        init = jax.vmap(init)
    layout = step.trainable.layout
    return jax.jit(lambda params: keep_state(layout, init(params), params))


def run_step(
    step: TrainStep,
    state: TrainState,
    compute: Compute,
    frozen: Params,
    microbatches: Sequence[Any],
    on_microbatch: Callable[[Sums], None] | None = None,
) -> tuple[TrainState, Compute, StepMetrics]:
    """Runs one step. The arrays of `state` are donated; those of `compute` are not, because a
    sampler may be using them.

    Args:
      step: the compiled functions.
      state: the state before the step.
      compute: `step.prepare(state.params)`.
      frozen: parameters that are not trained, or None; or the state's collections.
      microbatches: the microbatches; adapter i has the i-th share of the rows of each.
      on_microbatch: called after each microbatch was dispatched, with the sums so far. Waiting for
          these waits until the device is idle.

    Returns:
      The new state, the new compute parameters, and the metrics.

    Raises:
      ValueError: no token of the microbatches has a loss, or a token is outside the model's
          vocabulary.
    """
    check_token_ids(microbatches, step.objective.vocab_size)
    denominators = sum(_denominators(step, each) for each in microbatches)
    if not np.all(denominators > 0):
        raise ValueError(
            f"the batch of step {int(state.step) + 1} has no token with a loss: are its records "
            "longer than sequence_length, and cut before the answer?"
        )
    sums = step.zeros(state.params)
    collections = state.collections
    for number, microbatch in enumerate(microbatches):
        sums, changed = step.accumulate(
            sums,
            state.params,
            compute,
            frozen if collections is None else collections,
            lay_batch(step.trainable.placement, microbatch),
            state.key,
            state.step,
            np.int32(number),
            denominators,
        )
        if collections is not None:
            collections = {**collections, **changed}
        if on_microbatch is not None:
            on_microbatch(sums)
    params, opt_state, metrics = step.update(
        state.params, state.opt_state, sums, state.step, denominators
    )
    state = state._replace(
        params=params, opt_state=opt_state, step=state.step + 1, collections=collections
    )
    return state, step.prepare(params), metrics


def _denominators(step: TrainStep, microbatch: Any) -> np.ndarray:
    by_group = step.objective.denominators(microbatch).reshape(step.trainable.num_groups, -1)
    denominators: np.ndarray = by_group.sum(axis=1, dtype=np.float32)
    return denominators


def _prepare(trainable: Trainable, masters: Params) -> Compute:
    assert trainable.to_compute is not None
    return keep(trainable.layout, trainable.to_compute(masters))


def _zeros(trainable: Trainable, aux: Sequence[str], params: Params) -> Sums:
    values = {name: jnp.zeros(trainable.num_groups, jnp.float32) for name in ("loss", *aux)}
    return Sums(keep(trainable.layout, jax.tree.map(jnp.zeros_like, params)), values)


def _accumulate(
    trainable: Trainable,
    objective: Objective,
    sums: Sums,
    masters: Params,
    compute: Compute,
    frozen: Params,
    microbatch: Any,
    key: jax.Array,
    step: jax.Array,
    number: jax.Array,
    denominators: jax.Array,
) -> tuple[Sums, Mapping[str, Any]]:
    """Adds a microbatch's share of the gradient of sum(loss) / sum(denominator)."""
    own_key = jax.random.fold_in(jax.random.fold_in(key, step), number)

    def loss(compute: Compute) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
        def policy(shape: tuple[int, int]) -> Params:
            return trainable.assemble(compute, frozen, shape, own_key)

        found = objective.losses(policy, frozen, microbatch, own_key)
        values = {
            name: rows.reshape(trainable.num_groups, -1).sum(axis=1)
            for name, rows in {"loss": found.rows, **found.aux}.items()
        }
        # Adapters of a stack are independent: the gradient of the sum gives each one its own.
        return jnp.sum(values["loss"] / denominators), (values, dict(found.collections))

    gradients, (values, changed) = jax.grad(loss, has_aux=True)(compute)
    if trainable.to_compute is not None:
        _, pull_back = jax.vjp(trainable.to_compute, masters)
        (gradients,) = pull_back(gradients)
    gradients = keep(trainable.layout, gradients)
    total: Sums = jax.tree.map(jnp.add, sums, Sums(gradients, values))
    return total, changed


def _update(
    trainable: Trainable,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    learning_rates: np.ndarray,
    masters: Params,
    opt_state: Any,
    sums: Sums,
    step: jax.Array,
    denominators: jax.Array,
) -> tuple[Params, Any, StepMetrics]:
    rates = jnp.asarray(learning_rates) * jnp.asarray(schedule(step), jnp.float32)

    def one(
        masters: Params, opt_state: Any, gradients: Params, rate: jax.Array
    ) -> tuple[Params, Any, jax.Array]:
        updates, opt_state = optimizer.update(gradients, opt_state, masters)
        masters = jax.tree.map(lambda old, update: old + rate * update, masters, updates)
        return masters, opt_state, optax.tree.norm(gradients)

    if trainable.num_adapters is None:
        masters, opt_state, norm = one(masters, opt_state, sums.gradients, rates[0])
        norms = norm[None]
    else:
        masters, opt_state, norms = jax.vmap(one)(masters, opt_state, sums.gradients, rates)
    opt_state = keep_state(trainable.layout, opt_state, masters)
    masters = keep(trainable.layout, masters)
    values = {name: value / denominators for name, value in sums.values.items()}
    return masters, opt_state, StepMetrics(values, norms, rates)
