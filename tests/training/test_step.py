"""One step: gradients over microbatches, one update, and what is donated."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.data.batch import Batch
from flaxen.kernels.backend import Backend
from flaxen.models.params import compute_params
from flaxen.training.full import full, initial_params
from flaxen.training.microbatches import split_batch
from flaxen.training.step import TrainStep, run_step, start
from tests.engine.tiny import PARAMS
from tests.models.plain import plain_params
from tests.training.tiny import (
    BACKEND,
    FLOAT32,
    MODEL,
    base_params,
    copy,
    full_step,
    make,
    pack_batch,
    random_batch,
)

DTYPES = ["float32", "bfloat16"]


def losses(step: TrainStep, num_steps: int, **options: Any) -> list[float]:
    """The losses of steps over the same batch."""
    state = start(step, copy(PARAMS), seed=0)
    compute = step.prepare(state.params)
    microbatches = split_batch(random_batch(0), 2)
    found = []
    for _ in range(num_steps):
        state, compute, metrics = run_step(step, state, compute, None, microbatches, **options)
        found.append(float(metrics.values["loss"][0]))
    return found


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_loss_falls(dtype: str) -> None:
    found = losses(full_step(dtype), 12)
    assert found[-1] < 0.5 * found[0]


def test_microbatches_are_one_big_batch() -> None:
    """To the rounding of float32 sums."""
    batch = random_batch(1)
    step = full_step("float32")
    found = []
    for num_microbatches in (1, 2):
        state = start(step, copy(PARAMS), seed=0)
        denominators = np.float32(step.objective.denominators(batch).sum())[None]
        sums = step.zeros(state.params)
        for number, each in enumerate(split_batch(batch, num_microbatches)):
            compute = step.prepare(state.params)
            key, now = state.key, state.step
            sums, _ = step.accumulate(
                sums, state.params, compute, None, each, key, now, np.int32(number), denominators
            )
        found.append(sums)
    np.testing.assert_allclose(found[0].values["loss"], found[1].values["loss"], rtol=1e-5)
    for one, other in zip(
        jax.tree.leaves(found[0].gradients), jax.tree.leaves(found[1].gradients), strict=True
    ):
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * float(jnp.abs(one).max()))


@pytest.mark.parametrize(("num_rows", "num_microbatches"), [(8, 1), (8, 4)])
def test_rows_of_padding_change_nothing(num_rows: int, num_microbatches: int) -> None:
    """Also where a whole microbatch is padding."""
    batch = random_batch(1)
    empty = pack_batch([[]] * (num_rows - len(batch.tokens)))
    padded = Batch(*(np.concatenate(both) for both in zip(batch, empty, strict=True)))
    step = full_step("float32")
    found = []
    for each, parts in ((batch, 1), (padded, num_microbatches)):
        state = start(step, copy(PARAMS), seed=0)
        microbatches = split_batch(each, parts)
        *_, metrics = run_step(step, state, step.prepare(state.params), None, microbatches)
        found.append(jax.device_get((metrics.values, metrics.grad_norm)))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5), *found)


def test_float32_without_kernels_computes_with_the_masters_themselves() -> None:
    step = make(full(MODEL.on(Backend.REFERENCE), dtype=FLOAT32))
    masters = copy(PARAMS)
    assert step.prepare(masters) is masters


def test_masters_are_what_was_loaded() -> None:
    for dtype in DTYPES:
        loaded = base_params(dtype)
        masters = plain_params(MODEL.param_specs, loaded)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(masters))
        again = compute_params(MODEL.param_specs, masters, dtype=jnp.dtype(dtype), backend=BACKEND)
        assert jax.tree.structure(again) == jax.tree.structure(loaded)
        for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(loaded), strict=True):
            np.testing.assert_array_equal(one, other)


def test_parameters_from_scratch_depend_on_the_seed_alone() -> None:
    first, again, other = (initial_params(MODEL, seed) for seed in (1, 1, 2))
    assert jax.tree.map(lambda leaf: leaf.shape, first) == jax.tree.map(
        lambda leaf: leaf.shape, PARAMS
    )
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), first, again)))
    wq, other_wq = first["layers"][0]["wq"], other["layers"][0]["wq"]
    assert not (wq == other_wq).any()
    assert 0.018 < float(wq.std()) < 0.022
    assert 0.009 < float(first["layers"][1]["wo"].std()) < 0.011  # 0.02 / sqrt(2 * 2 layers)
    assert (first["final_norm"] == 1).all()


def test_a_call_is_made_after_each_microbatch() -> None:
    seen: list[float] = []
    losses(
        full_step("float32"),
        1,
        on_microbatch=lambda sums: seen.append(float(sums.values["loss"][0])),
    )
    assert len(seen) == 2
    assert 0 < seen[0] < seen[1]


def test_a_batch_without_a_loss_is_refused() -> None:
    step = full_step()
    state = start(step, copy(PARAMS), seed=0)
    batch = random_batch(0)
    batch = batch._replace(loss_weights=np.zeros_like(batch.loss_weights))
    with pytest.raises(ValueError, match=r"the batch of step 1 has no token with a loss"):
        run_step(step, state, step.prepare(state.params), None, [batch])


def test_a_token_outside_the_vocabulary_is_refused_and_nothing_is_computed() -> None:
    step = full_step()
    state = start(step, copy(PARAMS), seed=0)
    batch = random_batch(0)
    batch.tokens[2, 1] = MODEL.vocab_size
    with pytest.raises(ValueError, match=f"token id {MODEL.vocab_size} in row 2 at 1, outside"):
        run_step(step, state, step.prepare(state.params), None, [random_batch(1), batch])
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_rows_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="4 rows do not make 3 equal microbatches"):
        split_batch(random_batch(0), 3)


def test_a_wrong_number_of_learning_rates_is_refused() -> None:
    with pytest.raises(ValueError, match="2 learning rates were given for 1 to train"):
        full_step(learning_rates=(0.1, 0.2))
