"""A training step leaves the very arrays, to the bit, that are sampled with."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.models.params import compute_params
from flaxen.training.microbatches import split_batch
from flaxen.training.step import run_step, start
from tests.engine.tiny import PARAMS
from tests.training.tiny import (
    BACKEND,
    MODEL,
    copy,
    full_step,
    random_batch,
)


def test_the_state_is_donated_and_what_is_computed_with_is_not() -> None:
    step = full_step("bfloat16")
    state = start(step, copy(PARAMS), seed=0)
    compute = step.prepare(state.params)
    masters = jax.tree.leaves((state.params, state.opt_state))
    new, new_compute, _ = run_step(step, state, compute, None, split_batch(random_batch(0), 2))
    donated = [leaf for leaf in masters if leaf.size > 1]
    assert donated
    assert all(leaf.is_deleted() for leaf in donated)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(compute))
    # The arrays that a sampler is given are those that the next step's forward takes.
    expected = compute_params(
        MODEL.param_specs, new.params, dtype=jnp.dtype("bfloat16"), backend=BACKEND
    )
    assert jax.tree.structure(expected) == jax.tree.structure(new_compute)
    for one, other in zip(jax.tree.leaves(new_compute), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)
