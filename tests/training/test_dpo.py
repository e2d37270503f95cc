"""DPO: its loss by hand, and that the chosen become likelier than the rejected."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.data.batch import Batch, PairBatch
from flaxen.training.dpo import dpo
from flaxen.training.jobs.validate import make_validation
from flaxen.training.lora import initial_adapters, lora
from flaxen.training.loss import token_logprobs
from flaxen.training.microbatches import split_batch
from flaxen.training.step import run_step, start
from tests.engine.tiny import make_params, pack_params
from tests.training.tiny import BACKEND, LORA, MODEL, base_params, make, pack_batch, random_pairs

PACKED = BACKEND.packs_weights


def sums(params: Any, batch: Any) -> np.ndarray:
    found = np.asarray(token_logprobs(MODEL, params, batch))
    return (found * batch.loss_weights).sum(axis=1, dtype=np.float64)


def test_the_loss_by_hand() -> None:
    pairs = random_pairs(0, num_rows=2)
    base = base_params()
    policy = pack_params(make_params(1)) if PACKED else make_params(1)
    beta, smoothing = 0.2, 0.1
    losses, aux, _ = dpo(MODEL, beta=beta, label_smoothing=smoothing).losses(
        lambda shape: policy, base, pairs
    )
    chosen = beta * (sums(policy, pairs.chosen) - sums(base, pairs.chosen))
    rejected = beta * (sums(policy, pairs.rejected) - sums(base, pairs.rejected))
    margin = chosen - rejected
    expected = (1 - smoothing) * np.log1p(np.exp(-margin)) + smoothing * np.log1p(np.exp(margin))
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    np.testing.assert_allclose(aux["chosen_reward"], chosen, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(aux["rejected_reward"], rejected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(aux["accuracy"], margin > 0)


def test_the_accuracy_rises_and_two_adapters_do_not_mix() -> None:
    objective = dpo(MODEL)
    trainable = lora(LORA, num_adapters=2)
    step = make(trainable, objective, learning_rates=(1e-2, 1e-6))
    frozen = base_params("bfloat16")
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


def with_padding(pairs: PairBatch, num_rows: int) -> PairBatch:
    """The same pairs in a batch of more rows, as the data's last batch is filled up."""

    def filled(batch: Batch) -> Batch:
        empty = pack_batch([[]] * (num_rows - len(batch.tokens)), batch.tokens.shape[1])
        return Batch(*(np.concatenate(both) for both in zip(batch, empty, strict=True)))

    return PairBatch(filled(pairs.chosen), filled(pairs.rejected))


@pytest.mark.parametrize(("num_rows", "num_microbatches"), [(5, 1), (16, 1), (16, 4), (16, 16)])
def test_rows_of_padding_are_no_pairs(num_rows: int, num_microbatches: int) -> None:
    step = make(lora(LORA, num_adapters=2), dpo(MODEL), learning_rates=(1e-2, 1e-3))
    frozen = base_params()
    pairs = random_pairs(1)

    def first_steps(pairs: PairBatch, num_microbatches: int) -> Any:
        state = start(step, initial_adapters(MODEL, LORA, [0, 1]), seed=0)
        compute = step.prepare(state.params)
        found = []
        for _ in range(2):
            parts = split_batch(pairs, num_microbatches, 2)
            state, compute, metrics = run_step(step, state, compute, frozen, parts)
            found.append(jax.device_get(metrics))
        return found

    alone = first_steps(pairs, 1)
    padded = first_steps(with_padding(pairs, num_rows), num_microbatches)
    assert alone[1].values["accuracy"].min() > 0
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6),
        alone,
        padded,
    )


class Once:
    """Batches that are read from their beginning after each `restore`."""

    def __init__(self, *batches: PairBatch) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[PairBatch]:
        return iter(self.batches)

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Any) -> None:
        pass


def test_a_validation_does_not_count_padding() -> None:
    step = make(lora(LORA), dpo(MODEL, beta=2.0), learning_rates=(1e-2,))
    frozen, pairs = base_params(), random_pairs(1)
    adapters = jax.tree.map(lambda leaf: leaf + 0.03, initial_adapters(MODEL, LORA, [0]))

    def validated(*batches: PairBatch) -> tuple[float, float]:
        given = cast(Any, Once(*batches))
        return make_validation(step, frozen, given, lambda: None)(adapters)

    loss, accuracy = validated(pairs)
    assert loss != pytest.approx(np.log(2), abs=1e-2)
    assert validated(with_padding(pairs, 7)) == (loss, accuracy)


def test_a_pair_without_a_loss_does_not_count() -> None:
    """A pair truncated before both answers has no loss; one with a truncated answer still has."""
    pairs = random_pairs(0, num_rows=3)
    chosen, rejected = pairs.chosen.loss_weights.copy(), pairs.rejected.loss_weights.copy()
    chosen[:2] = rejected[0] = 0
    cut = PairBatch(
        pairs.chosen._replace(loss_weights=chosen), pairs.rejected._replace(loss_weights=rejected)
    )
    objective = dpo(MODEL)
    np.testing.assert_array_equal(objective.denominators(cut), [0, 1, 1])
    base = base_params()
    losses, aux, _ = objective.losses(lambda shape: base, base, cut)
    np.testing.assert_allclose(losses, [0, np.log(2), np.log(2)], rtol=1e-6)
    assert set(aux) == {"accuracy", "chosen_reward", "rejected_reward"}


def test_the_reference_gets_no_gradient() -> None:
    base = base_params()
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
