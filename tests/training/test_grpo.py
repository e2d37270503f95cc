"""GRPO: its loss by hand, that the sampler and the trainer share the very same arrays, and that a
reward rises."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.training.grpo import GrpoConfig, Rollouts, group_advantages, grpo
from flaxen.training.lora import initial_adapters
from flaxen.training.loss import token_logprobs
from flaxen.training.rollouts import RolloutMetrics, pack_rollouts, train_on_rollouts
from tests.engine.tiny import (
    make_params,
    pack_params,
    request,
    run,
)
from tests.engine.tiny import prompts as random_prompts
from tests.training.sampler import (
    CONFIG,
    MAX_TOKENS,
    PACKED,
    completions,
    lora_step,
    new_state,
    sampler_of,
    share_of_low_ids,
)
from tests.training.tiny import LORA, MODEL, base_params, copy


def test_advantages_by_hand() -> None:
    np.testing.assert_allclose(group_advantages([1, 0, 0, 1]), [1, -1, -1, 1])
    np.testing.assert_allclose(group_advantages([3, 0, 0], "dr_grpo"), [2, -1, -1])
    assert (group_advantages([0.1] * 7) == 0).all()  # though their mean is not 0.1 to the bit
    with pytest.raises(ValueError, match=r"rewards must be finite, got 1\.0, nan"):
        group_advantages([1.0, float("nan")])


def test_completions_share_rows_in_places_that_agree() -> None:
    first, second, third = completions([4, 7, 2])
    config = GrpoConfig(sequence_length=20, group_size=3)
    one, two = pack_rollouts([[first, second, third]], [[1.0, 0.0, 0.0]], config)
    assert one.batch.tokens.shape == two.batch.tokens.shape == (1, 20)
    # 8 inputs and 11 in the first row, 6 in the second; losses where an answer's token follows.
    for rollouts, begin, completion, advantage in [
        (one, 0, first, np.sqrt(2)), (one, 8, second, -np.sqrt(0.5)), (two, 0, third, -np.sqrt(0.5))
    ]:  # fmt: skip
        num = len(completion.token_ids)
        where = slice(begin + 4, begin + 4 + num)
        assert rollouts.batch.targets[0, where].tolist() == completion.token_ids
        np.testing.assert_allclose(rollouts.batch.loss_weights[0, where], 1 / num, rtol=1e-6)
        assert rollouts.old_logprobs[0, where].tolist() == completion.logprobs
        np.testing.assert_allclose(rollouts.advantages[0, where], advantage, rtol=1e-6)
    assert np.count_nonzero(one.batch.loss_weights) == 11
    assert np.count_nonzero(one.advantages) == 11
    assert grpo(MODEL, config).denominators(one).tolist() == [2.0]


def by_hand(
    rollouts: Rollouts, new: np.ndarray, reference: np.ndarray, config: GrpoConfig
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Losses, auxiliary values, and the derivative of the losses by `new`."""
    weights, old = rollouts.batch.loss_weights, rollouts.old_logprobs
    ratio, behind = np.exp(new - old), reference - new
    gain = ratio * rollouts.advantages
    limit = np.clip(ratio, 1 - config.clip, 1 + config.clip) * rollouts.advantages
    aux = {"clipped": limit < gain, "off_policy": new != old, "kl": np.exp(behind) - behind - 1}
    loss = -np.minimum(gain, limit) + config.kl_beta * aux["kl"]
    slope = -np.where(limit < gain, 0, gain) + config.kl_beta * (1 - np.exp(behind))
    means = {name: (weights * each).sum(axis=1) for name, each in aux.items()}
    return (weights * loss).sum(axis=1), means, weights * slope


@pytest.mark.parametrize(
    "config",
    [
        GrpoConfig(sequence_length=32, microbatch_rows=2, group_size=4, kl_beta=0.3),
        GrpoConfig(sequence_length=32, microbatch_rows=2, group_size=4, clip=0.5),
    ],
    ids=["kl", "no kl"],
)
def test_the_loss_and_its_gradient_by_hand(config: GrpoConfig) -> None:
    base = base_params()
    policy = pack_params(make_params(1)) if PACKED else make_params(1)
    (rollouts,) = pack_rollouts([completions([4, 7, 2, 9])], [[1.0, 0.0, 0.5, 0.0]], config)
    batch = rollouts.batch
    wanted = batch._replace(targets=np.where(batch.loss_weights != 0, batch.targets, -1))
    scored = jax.jit(lambda params: token_logprobs(MODEL, params, wanted))
    new, pull_back = jax.vjp(scored, policy)
    # The first completion of each row is on policy.
    old = np.where(batch.segment_ids == 1, new, rollouts.old_logprobs)
    rollouts = rollouts._replace(old_logprobs=old)
    losses, aux, slope = by_hand(rollouts, np.asarray(new), np.asarray(scored(base)), config)

    @jax.jit
    def total(policy: Any) -> tuple[jax.Array, Any]:
        found, aux, _ = grpo(MODEL, config).losses(lambda shape: policy, base, rollouts)
        return found.sum(), (found, aux)

    (_, found), gradient = jax.value_and_grad(total, has_aux=True)(policy)
    np.testing.assert_allclose(found[0], losses, rtol=1e-4, atol=1e-5)
    assert set(found[1]) == set(grpo(MODEL, config).aux)
    assert ("kl" in found[1]) == (config.kl_beta > 0)
    for name, report in found[1].items():
        np.testing.assert_allclose(report, aux[name], rtol=1e-4, atol=1e-6)
    assert aux["off_policy"].sum() == pytest.approx(2)
    assert 0 < aux["clipped"].sum() < 2  # some are, some are not
    (expected,) = pull_back(jnp.asarray(slope, jnp.float32))
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5 * np.abs(other).max())


def test_rows_of_padding_are_no_completions() -> None:
    """A microbatch that is larger than what there is gives the same sums over the same count."""
    base = base_params()
    group, rewards = [completions([4, 7, 2, 9])], [[1.0, 0.0, 0.5, 0.0]]
    found = []
    for num_rows in (1, 5):
        config = GrpoConfig(sequence_length=32, microbatch_rows=num_rows, group_size=4, kl_beta=0.3)
        objective = grpo(MODEL, config)
        losses = jax.jit(
            lambda rollouts, objective=objective: objective.losses(
                lambda shape: base, base, rollouts, None
            )[:2]
        )
        microbatches = pack_rollouts(group, rewards, config)
        assert sum(objective.denominators(each).sum() for each in microbatches) == 4
        rows = [losses(each) for each in microbatches]
        sums = [jax.tree.map(lambda leaf: np.float64(leaf.sum()), each) for each in rows]
        found.append(jax.tree.map(lambda *parts: sum(parts), *sums))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5), *found)


def test_dr_grpo_weighs_all_tokens_alike() -> None:
    config = GrpoConfig(
        sequence_length=32, microbatch_rows=2, group_size=4, variant="dr_grpo", max_tokens=16
    )
    found = completions([4, 7, 2, 9])
    (rollouts,) = pack_rollouts([found], [[1.0, 0.0, 0.0, 0.0]], config)
    share = rollouts.batch.loss_weights * rollouts.advantages
    used = rollouts.batch.loss_weights != 0
    values, counts = np.unique(np.round(share[used] * 16, 5), return_counts=True)
    np.testing.assert_allclose(values, [-0.25, 0.75])
    assert counts.tolist() == [18, 4]


@pytest.mark.parametrize("trains_all", [False, True], ids=["lora", "full"])
def test_rollouts_use_the_trainers_own_arrays(trains_all: bool) -> None:
    """An engine with a copy of any of them would go on when the trainer's is deleted."""
    sampler = sampler_of("float32", trains_all=trains_all)
    trained = sampler.params if trains_all else initial_adapters(MODEL, LORA, [0])
    prompt = random_prompts([6])
    for index in range(len(jax.tree.leaves(trained))):
        own = copy(trained)
        sampler.publish(own)
        sampler.sample(prompt, 0)
        leaves = jax.tree.leaves(own)
        assert not any(leaf.is_deleted() for leaf in leaves)
        leaves[index].delete()
        asked = dataclasses.replace(request("r", prompt[0]), adapter=sampler.adapter)
        (output,) = run(sampler.engine, [asked])
        assert "deleted" in str(output.outputs[0].error)


@pytest.mark.parametrize("trains_all", [False, True], ids=["lora", "full"])
def test_prefixes_of_earlier_parameters_are_not_found(trains_all: bool) -> None:
    sampler = sampler_of("float32", trains_all=trains_all)
    trained = sampler.params if trains_all else initial_adapters(MODEL, LORA, [0])
    sampler.publish(trained)
    prompt = random_prompts([40])
    cached = []
    for number in range(2):
        sampler.sample(prompt, number)
        cached += sampler.num_cached
    sampler.publish(trained)
    sampler.sample(prompt, 2)
    assert cached == [0, 32]
    assert sampler.num_cached == [0]


@pytest.mark.parametrize("kl_beta", [0.0, 0.02])
def test_a_reward_rises(kl_beta: float) -> None:
    config = dataclasses.replace(CONFIG, kl_beta=kl_beta)
    sampler = sampler_of("float32")
    step = lora_step(kl_beta)
    found: list[RolloutMetrics] = []
    rounds = [random_prompts([6] * 8, seed=seed) for seed in range(32)]
    state = train_on_rollouts(
        step,
        new_state(step),
        sampler.params,
        config,
        rounds,
        sample=sampler.sample,
        reward=share_of_low_ids,
        publish=sampler.publish,
        on_round=lambda metrics, state: found.append(metrics),
    )
    rewards = [metrics.reward for metrics in found]
    assert rewards[0] < 0.3
    assert np.mean(rewards[-3:]) > 0.7
    assert found[0].num_completions == 64
    assert found[0].num_tokens == 64 * MAX_TOKENS
    assert sampler.published[-1] is state.params
    if kl_beta:
        assert found[0].updates[0]["kl"] == pytest.approx(0, abs=1e-6)
        assert found[-1].updates[0]["kl"] > 0.1
