"""The loop: when it ends, what it calls, and that a resumed run is the uninterrupted one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.training.loop import Callbacks, DivergedError, TrainMetrics, count_tokens, train
from flaxen.training.lora import initial_adapters
from flaxen.training.state import TrainState
from flaxen.training.step import start
from tests.training.tiny import (
    LORA,
    MODEL,
    Repeated,
    base_params,
    lora_step,
    random_batch,
    random_pairs,
)

BATCHES = [random_batch(seed) for seed in range(3)]


def new_state(**options: Any) -> tuple[Any, TrainState]:
    step = lora_step(dropout=0.1, **options)
    return step, start(step, initial_adapters(MODEL, LORA, [0]), seed=7)


def equal(one: TrainState, other: TrainState) -> bool:
    def bits(leaf: Any) -> np.ndarray:
        is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    assert jax.tree.structure(one) == jax.tree.structure(other)
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all((bits(a) == bits(b)).all() for a, b in pairs)


def test_a_resumed_run_is_the_uninterrupted_one() -> None:
    frozen = base_params()
    step, state = new_state()
    whole = train(step, state, frozen, Repeated(BATCHES), num_steps=5, num_microbatches=2)
    assert int(whole.step) == 5
    assert whole.data_state == {"position": 5}

    step, state = new_state()
    part = train(step, state, frozen, Repeated(BATCHES), num_steps=2, num_microbatches=2)
    assert not equal(whole, part)
    rest = Repeated(BATCHES, part.data_state["position"])
    resumed = train(step, part, frozen, rest, num_steps=5, num_microbatches=2)
    assert equal(whole, resumed)


def test_calls_are_made_at_each_step_and_may_stop_it() -> None:
    metrics: list[TrainMetrics] = []
    states: list[tuple[int, Any]] = []
    step, state = new_state()
    callbacks = Callbacks(
        on_metrics=metrics.append,
        on_step=lambda metrics, state, compute: states.append((int(state.step), state.data_state)),
        should_stop=lambda: len(metrics) == 2,
    )
    end = train(
        *(step, state, base_params(), Repeated(BATCHES)),
        num_steps=9,
        num_microbatches=2,
        callbacks=callbacks,
    )
    assert int(end.step) == 2
    assert states == [(1, {"position": 1}), (2, {"position": 2})]
    assert [each.step for each in metrics] == [1, 2]
    first = metrics[0]
    assert first.num_tokens == (BATCHES[0].segment_ids > 0).sum()
    assert first.num_loss_tokens == (BATCHES[0].loss_weights > 0).sum()
    assert first.values["loss"].shape == first.values["accuracy"].shape == (1,)
    assert first.grad_norm[0] > 0
    assert first.learning_rate[0] == np.float32(1e-2)
    assert first.seconds > 0


def test_a_run_ends_with_its_batches() -> None:
    step, state = new_state()
    batches = Repeated(BATCHES, end=2)
    end = train(step, state, base_params(), batches, num_steps=9, num_microbatches=2)
    assert int(end.step) == 2


def test_what_is_not_finite_ends_the_run_before_anyone_keeps_it() -> None:
    frozen = base_params()
    frozen["final_norm"] = frozen["final_norm"].at[0].set(jnp.inf)
    step, state = new_state()
    kept: list[int] = []
    callbacks = Callbacks(on_step=lambda metrics, state, compute: kept.append(int(state.step)))
    with pytest.raises(DivergedError, match=r"the loss of step 1 is nan: training can't go on"):
        train(
            step,
            state,
            frozen,
            Repeated(BATCHES),
            num_steps=3,
            num_microbatches=2,
            callbacks=callbacks,
        )
    assert kept == []


def test_tokens_of_both_halves_of_a_pair_count() -> None:
    pairs = random_pairs(0)
    assert count_tokens(pairs) == (4 * 2 * 14, 4 * 2 * 8)
