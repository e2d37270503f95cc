"""DPO: its loss by hand, and that the chosen become likelier than the rejected."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels import native
from flaxen.train.dpo import dpo
from flaxen.train.lora import initial_adapters, lora
from flaxen.train.loss import token_logprobs
from flaxen.train.step import run_step, split_batch, start
from tests.engine.tiny import MODEL, make_params, pack_params
from tests.train.tiny import LORA, base_params, make, random_pairs

PACKED = native.is_enabled()


def sums(params: Any, batch: Any) -> np.ndarray:
    found = np.asarray(token_logprobs(MODEL, params, batch))
    return (found * batch.loss_weights).sum(axis=1, dtype=np.float64)


def test_the_loss_by_hand() -> None:
    pairs = random_pairs(0, num_rows=2)
    base = base_params(packed=PACKED)
    policy = pack_params(make_params(1)) if PACKED else make_params(1)
    beta, smoothing = 0.2, 0.1
    losses, reports, _ = dpo(MODEL, beta=beta, label_smoothing=smoothing).losses(
        lambda shape: policy, base, pairs
    )
    chosen = beta * (sums(policy, pairs.chosen) - sums(base, pairs.chosen))
    rejected = beta * (sums(policy, pairs.rejected) - sums(base, pairs.rejected))
    margin = chosen - rejected
    expected = (1 - smoothing) * np.log1p(np.exp(-margin)) + smoothing * np.log1p(np.exp(margin))
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    np.testing.assert_allclose(reports["chosen_reward"], chosen, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(reports["rejected_reward"], rejected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(reports["accuracy"], margin > 0)


def test_the_accuracy_rises_and_two_adapters_do_not_mix() -> None:
    objective = dpo(MODEL)
    trainable = lora(LORA, num_adapters=2)
    step = make(trainable, objective, learning_rates=(1e-2, 1e-6))
    frozen = base_params("bfloat16", packed=PACKED)
    state = start(step, initial_adapters(MODEL, LORA, [0, 1]), seed=0)
    compute = step.prepare(state.params)
    microbatches = split_batch(random_pairs(1), 1, 2)
    found = []
    for _ in range(10):
        state, compute, metrics = run_step(step, state, compute, frozen, microbatches)
        found.append(jax.tree.map(np.asarray, metrics.values))
    assert found[0]["loss"] == pytest.approx(np.log(2), abs=1e-3)  # as likely as by the reference
    assert found[-1]["loss"][0] < 0.3
    assert found[-1]["accuracy"][0] == 1.0
    assert found[-1]["chosen_reward"][0] > found[-1]["rejected_reward"][0]
    assert found[-1]["loss"][1] == pytest.approx(np.log(2), abs=1e-2)  # the one that hardly learns


def test_the_reference_gets_no_gradient() -> None:
    base = base_params(packed=PACKED)
    loss = dpo(MODEL).losses

    def total(reference: Any) -> jax.Array:
        return loss(lambda shape: base, reference, random_pairs(0, num_rows=2))[0].sum()

    gradients = jax.jit(jax.grad(total))(base)
    assert not any(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0.0}, r"DPO's beta must be above 0, got 0\.0"),
        ({"label_smoothing": 0.5}, r"smoothing must be from 0 to below 0\.5, got 0\.5"),
    ],
)
def test_bad_values_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dpo(MODEL, **options)
