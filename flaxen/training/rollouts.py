"""The reinforcement learning loop: publish parameters, sample, reward, update.

The sampler uses the trained arrays themselves: `publish` passes them on, and nothing is copied or
converted. Deliberately does not know: engines, tokenizers, prompts, rewards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from flaxen.data.batch import Batch
from flaxen.data.encode import TokenSequence
from flaxen.data.pack import collate, pack
from flaxen.models.model import Params
from flaxen.training.grpo import GrpoConfig, Rollouts, group_advantages
from flaxen.training.loop import DivergedError
from flaxen.training.state import TrainState
from flaxen.training.step import Compute, StepMetrics, TrainStep, run_step

_MAX_SEGMENTS = 32  # the limit of causal attention

Prompt = TypeVar("Prompt")  # any type that `sample` and `reward` accept


class SampledCompletion(NamedTuple):
    """A completion, sampled with temperature 1 from all tokens."""

    prompt_token_ids: Sequence[int]
    token_ids: Sequence[int]
    logprobs: Sequence[float]  # one for each token, from the sampling
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class RolloutMetrics:
    """The metrics of one round: completions, and the updates made with them."""

    step: int  # number of updates so far
    reward: float  # the mean reward
    num_completions: int
    num_tokens: int  # tokens sampled
    updates: Sequence[Mapping[str, float]]  # loss, grad_norm, and the objective's auxiliary values
    sample_seconds: float
    update_seconds: float


def train_on_rollouts(
    step: TrainStep,
    state: TrainState,
    frozen: Params,
    config: GrpoConfig,
    prompts: Iterable[Sequence[Prompt]],
    *,
    sample: Callable[[Sequence[Prompt], int], Sequence[Sequence[SampledCompletion]]],
    reward: Callable[[Prompt, SampledCompletion], float],
    publish: Callable[[Compute], None],
    on_round: Callable[[RolloutMetrics, TrainState], None] = lambda metrics, state: None,
) -> TrainState:
    """Runs one round for each batch of prompts.

    Args:
      step: a step with the objective `grpo(model, config)`.
      state: a new state, or one to resume from; its arrays are donated.
      frozen: parameters that are not trained, or None; the reference of kl_beta.
      config: the settings of the rounds.
      prompts: a batch for each round.
      sample: returns config.group_size completions of each prompt. Its second argument differs in
          each round and is the same when a run is repeated: derive seeds from it.
      reward: returns how good a completion is.
      publish: called before each sampling, and after the last update, with the parameters to sample
          with. The next update may donate these arrays, and they must replace all earlier ones.
      on_round: called after each round; the next round donates the state's arrays.

    Returns:
      The last state.

    Raises:
      ValueError: several adapters are trained, or a sampled completion is invalid.
      DivergedError: a loss or a gradient is not finite.
    """
    if step.trainable.num_groups != 1:
        raise ValueError(
            f"{step.trainable.num_groups} adapters can't learn from rollouts at once: each needs "
            "completions of its own. Train one"
        )
    compute = step.prepare(state.params)
    publish(compute)
    for asked in prompts:
        start = time.perf_counter()
        num_before = int(state.step)
        groups = sample(asked, num_before)
        rewards = [
            [reward(prompt, each) for each in group]
            for prompt, group in zip(asked, groups, strict=True)
        ]
        sampled = time.perf_counter()
        microbatches = pack_rollouts(groups, rewards, config)
        found = []
        for _ in range(config.num_updates):
            state, compute, of_update = run_step(step, state, compute, frozen, microbatches)
            found.append(of_update)
        publish(compute)
        updates = [_on_host(number, each) for number, each in enumerate(found, num_before + 1)]
        metrics = RolloutMetrics(
            step=num_before + len(updates),
            reward=float(np.mean(rewards)),
            num_completions=sum(map(len, groups)),
            num_tokens=sum(len(each.token_ids) for group in groups for each in group),
            updates=updates,
            sample_seconds=sampled - start,
            update_seconds=time.perf_counter() - sampled,
        )
        on_round(metrics, state)
    return state


def pack_rollouts(
    groups: Sequence[Sequence[SampledCompletion]],
    rewards: Sequence[Sequence[float]],
    config: GrpoConfig,
) -> list[Rollouts]:
    """Packs completions into microbatches of one shape, so that one compiled step takes any number.

    Args:
      groups: the completions of each prompt.
      rewards: the reward of each completion.
      config: the sizes, and the variant of the advantages.

    Returns:
      Microbatches with arrays [microbatch_rows, sequence_length].

    Raises:
      ValueError: a group has another size, a completion is empty, too long or without
          log-probabilities, or a reward is not finite.
    """
    means, olds, advantages = [], [], []
    for group, group_rewards in zip(groups, rewards, strict=True):
        if len(group) != config.group_size:
            raise ValueError(
                f"{len(group)} completions came for a prompt, and group_size is "
                f"{config.group_size}: sample as many"
            )
        own = group_advantages(group_rewards, config.variant)
        for completion, advantage in zip(group, own, strict=True):
            _check(completion, config)
            num = len(completion.token_ids)
            if config.max_tokens is not None:  # changes the weight 1 / length to 1 / max_tokens
                advantage *= num / config.max_tokens
            means.append(_sequence(completion, np.full(num, 1 / num)))
            olds.append(_sequence(completion, completion.logprobs))
            advantages.append(_sequence(completion, np.full(num, advantage)))
    batches, *values = (_collated(each, config) for each in (means, olds, advantages))
    return [
        Rollouts(batch, old.loss_weights, advantage.loss_weights)
        for batch, old, advantage in zip(batches, *values, strict=True)
    ]


def _check(completion: SampledCompletion, config: GrpoConfig) -> None:
    num_prompt, num = len(completion.prompt_token_ids), len(completion.token_ids)
    if not num_prompt or not num:
        raise ValueError(
            f"a completion of {num} tokens came after a prompt of {num_prompt}: both need at least "
            "one"
        )
    if len(completion.logprobs) != num:
        raise ValueError(
            f"{len(completion.logprobs)} log-probabilities came with {num} tokens: sample with "
            "logprobs=0"
        )
    if num_prompt + num - 1 > config.sequence_length:
        raise ValueError(
            f"a prompt of {num_prompt} tokens and its completion of {num} do not fit into "
            f"sequence_length {config.sequence_length}: raise it, or sample fewer"
        )


def _sequence(completion: SampledCompletion, values: Sequence[float] | np.ndarray) -> TokenSequence:
    """A sequence with the tokens, and the given value for each sampled token."""
    tokens = np.asarray([*completion.prompt_token_ids, *completion.token_ids], np.int32)
    weights = np.zeros(len(tokens), np.float32)
    weights[len(completion.prompt_token_ids) :] = values
    return TokenSequence(tokens, weights)


def _collated(sequences: Sequence[TokenSequence], config: GrpoConfig) -> list[Batch]:
    """Packs by length only, so that every kind of value gets the same rows."""
    rows = pack(sequences, config.sequence_length, _MAX_SEGMENTS)
    size = config.microbatch_rows
    return [
        collate(rows[start : start + size], size, config.sequence_length)
        for start in range(0, len(rows), size)
    ]


def _on_host(number: int, found: StepMetrics) -> dict[str, float]:
    """Waits for the update and copies its metrics to the host.

    Raises:
      DivergedError: a metric is not finite.
    """
    of_step = {**found.values, "grad_norm": found.grad_norm}
    values = {name: float(each[0]) for name, each in jax.device_get(of_step).items()}
    for name in ("loss", "grad_norm"):
        if not np.isfinite(values[name]):
            raise DivergedError(
                f"the {name} of update {number} is {values[name]}: training can't go on. Lower the "
                "learning rate"
            )
    return values
