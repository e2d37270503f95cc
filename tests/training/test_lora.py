"""Adapters: where they start, what they change, and that those of a stack do not meet."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.models.adapters import Adapters, LoraConfig
from flaxen.training.lora import initial_adapters, lora
from flaxen.training.loss import token_logprobs
from flaxen.training.microbatches import split_batch
from flaxen.training.optimizer import OptimizerConfig, make_optimizer
from flaxen.training.step import TrainStep, run_step, start
from tests.training.tiny import LORA, MODEL, base_params, lora_step, random_batch


def run(
    step: TrainStep, seeds: list[int], num_steps: int, dtype: str
) -> tuple[Adapters, np.ndarray]:
    """The adapters after some steps over two batches in turn, and the losses [steps, n]."""
    frozen = base_params(dtype)
    state = start(step, initial_adapters(MODEL, LORA, seeds), seed=0)
    compute = step.prepare(state.params)
    losses = []
    for number in range(num_steps):
        microbatches = split_batch(random_batch(number % 2), 2, len(seeds))
        state, compute, metrics = run_step(step, state, compute, frozen, microbatches)
        losses.append(np.asarray(metrics.values["loss"]))
    return state.params, np.stack(losses)


def test_the_loss_falls() -> None:
    step = lora_step(dropout=0.05, learning_rates=(2e-2,))
    _, losses = run(step, [0], 16, "bfloat16")
    assert losses[-1, 0] < 0.8 * losses[0, 0]


def test_new_adapters_change_nothing() -> None:
    batch = random_batch(0)
    base = base_params()
    adapters = initial_adapters(MODEL, LORA, [3])
    adapted = lora(LORA).assemble(adapters, base, batch.tokens.shape, jax.random.key(0))
    np.testing.assert_allclose(
        token_logprobs(MODEL, adapted, batch), token_logprobs(MODEL, base, batch), atol=1e-5
    )
    a = adapters["layers"][1]["wo"]["a"]
    assert a.shape == (1, 96, 4)
    bound = 1 / np.sqrt(96)
    assert 0.95 * bound < float(jnp.abs(a).max()) <= bound


def test_an_adapter_depends_on_its_own_seed_alone() -> None:
    pair = initial_adapters(MODEL, LORA, [1, 2])
    alone = initial_adapters(MODEL, LORA, [2])
    for both, one in zip(jax.tree.leaves(pair), jax.tree.leaves(alone), strict=True):
        np.testing.assert_array_equal(both[1], one[0])
    w_up = pair["layers"][0]["w_up"]["a"]
    assert not (w_up[0] == w_up[1]).any()
    assert not (w_up[0] == pair["layers"][0]["w_gate"]["a"][0]).any()


def test_muon_takes_the_adapters_of_a_stack_one_by_one() -> None:
    """Muon's updates of a stack are those of each adapter, each a nearly orthogonal [I, R]."""
    specs = lora(LORA, num_adapters=2).specs
    optimizer = make_optimizer(OptimizerConfig(name="muon", max_grad_norm=None))(specs)
    stack = initial_adapters(MODEL, LORA, [1, 2])
    gradients = jax.tree.map(lambda leaf: jnp.cos(9 * leaf) + leaf, stack)

    def update(gradients: Any, adapters: Any) -> Any:
        return optimizer.update(gradients, optimizer.init(adapters), adapters)[0]

    together = jax.vmap(update)(gradients, stack)
    alone = [
        update(*(jax.tree.map(lambda leaf, i=i: leaf[i], tree) for tree in (gradients, stack)))
        for i in range(2)
    ]
    for i, one in enumerate(alone):
        for stacked, own in zip(jax.tree.leaves(together), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(stacked[i], own, rtol=1e-3, atol=1e-4)
    found = np.asarray(together["layers"][0]["wq"]["a"][0])
    singular = np.linalg.svd(found, compute_uv=False) / (0.2 * np.sqrt(max(found.shape)))
    assert ((singular > 0.6) & (singular < 1.3)).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_of_a_stack_train_as_if_alone(dtype: str) -> None:
    """Other seeds and learning rates beside them move nothing but the order of float32 sums."""
    seeds, rates = [1, 2, 3], (1e-2, 2e-3, 5e-3)
    options: dict[str, Any] = {"name": "sgd", "momentum": 0.0}
    together, losses = run(lora_step(3, learning_rates=rates, **options), seeds, 3, dtype)
    for index in (0, 2):
        step = lora_step(1, learning_rates=rates[index : index + 1], **options)
        alone, alone_losses = run(step, [seeds[index]], 3, dtype)
        np.testing.assert_allclose(losses[:, index], alone_losses[:, 0], rtol=1e-5)
        for stack, one in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(stack[index], one[0], rtol=0, atol=2e-6)


def test_dropout_is_drawn_anew_for_each_microbatch_and_step() -> None:
    """And is the same when a step is made again, as a resumed run does."""
    step, frozen = lora_step(dropout=0.5), base_params()
    state = start(step, initial_adapters(MODEL, LORA, [0]), seed=0)
    denominators = np.float32(step.objective.denominators(random_batch(0)).sum())[None]

    def gradient(number: int, microbatch: int) -> np.ndarray:
        sums, _ = step.accumulate(
            step.zeros(state.params), state.params, state.params, frozen, random_batch(0),
            state.key, np.int32(number), np.int32(microbatch), denominators,
        )  # fmt: skip
        return np.asarray(sums.gradients["layers"][0]["wq"]["b"])

    first = gradient(0, 0)
    np.testing.assert_array_equal(gradient(0, 0), first)
    assert not np.allclose(gradient(0, 1), first)
    assert not np.allclose(gradient(1, 0), first)


def test_only_the_targets_are_adapted() -> None:
    config = LoraConfig(rank=2, alpha=2.0, targets=("wq", "wv"))
    adapters = initial_adapters(MODEL, config, [0])
    assert [set(layer) for layer in adapters["layers"]] == [{"wq", "wv"}] * 2


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 adapter must be trained, got 0"):
        lora(LORA, num_adapters=0)
    with pytest.raises(ValueError, match=r"dropout must be from 0 to below 1, got 1\.0"):
        lora(LORA, dropout=1.0)
