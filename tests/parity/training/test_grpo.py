"""GRPO: the sampler and the trainer agree to the bit over the very same arrays."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.training.full import full
from flaxen.training.grpo import grpo
from flaxen.training.lora import initial_adapters, lora
from flaxen.training.loss import token_logprobs
from flaxen.training.rollouts import RolloutMetrics, pack_rollouts, train_on_rollouts
from flaxen.training.step import start
from tests.engine.tiny import prompts as random_prompts
from tests.models.plain import plain_params
from tests.training.sampler import (
    CONFIG,
    NATIVE,
    PACKED,
    lora_step,
    new_state,
    sampler_of,
    share_of_low_ids,
)
from tests.training.tiny import LORA, MODEL, copy, make


@pytest.mark.parametrize(
    ("dtype", "trains_all"),
    [
        pytest.param(dtype, trains_all, marks=[NATIVE] if dtype == "bfloat16" else [])
        for dtype in ("float32", "bfloat16")
        for trains_all in (False, True)
    ],
)
def test_the_first_update_is_on_policy_to_the_bit(dtype: str, trains_all: bool) -> None:
    """In both rounds: what was sampled with is what is trained. The second update is off policy."""
    config = dataclasses.replace(CONFIG, num_updates=2)
    sampler = sampler_of(dtype, trains_all=trains_all)
    found: list[RolloutMetrics] = []
    if trains_all:
        trainable = full(MODEL, dtype=jnp.dtype(dtype))
        step = make(trainable, grpo(MODEL, config), learning_rates=(1e-3,))
        frozen, state = (
            None,
            start(step, copy(plain_params(MODEL.param_specs, sampler.params)), seed=0),
        )
    else:
        step, frozen = lora_step(), sampler.params
        state = new_state(step)
    train_on_rollouts(
        step,
        state,
        frozen,
        config,
        [random_prompts([6, 9, 20, 3]), random_prompts([7, 2, 5, 11], seed=2)],
        sample=sampler.sample,
        reward=share_of_low_ids,
        publish=sampler.publish,
        on_round=lambda metrics, state: found.append(metrics),
    )
    for metrics in found:
        first, second = metrics.updates
        if PACKED:
            assert first["off_policy"] == 0
        assert first["clipped"] == 0
        assert second["off_policy"] > 0.9
    assert [metrics.step for metrics in found] == [2, 4]


@NATIVE
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sampled_logprobs_are_the_trainers(dtype: str) -> None:
    """Bitwise, with an adapter that changes what is said."""
    sampler = sampler_of(dtype)
    noise = np.random.default_rng(0)
    adapters = jax.tree.map(
        lambda leaf: leaf + jnp.asarray(0.05 * noise.standard_normal(leaf.shape), jnp.float32),
        initial_adapters(MODEL, LORA, [0]),
    )
    sampler.publish(adapters)
    groups = sampler.sample(random_prompts([6, 9, 20, 3]), 0)

    @jax.jit
    def scores(adapters: Any, base: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
        shape = batch.tokens.shape
        params = lora(LORA).assemble(adapters, base, shape, jax.random.key(0))
        return token_logprobs(MODEL, params, batch), token_logprobs(MODEL, base, batch)

    for rollouts in pack_rollouts(groups, np.zeros((4, 8)).tolist(), CONFIG):
        batch = rollouts.batch
        scored, base = map(np.asarray, scores(adapters, sampler.params, batch))
        used = batch.loss_weights != 0
        np.testing.assert_array_equal(scored[used], rollouts.old_logprobs[used])
        assert (scored[used] != base[used]).mean() > 0.9
