"""Reinforcement learning's loop: publish, sample, reward, update.

The sampler computes with the arrays that are trained: `publish` hands them over, and nothing is
copied or converted. Deliberately does not know: engines, tokenizers, what is asked and rewarded.
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
from flaxen.train.grpo import GrpoConfig, Rollouts, group_advantages
from flaxen.train.loop import DivergedError
from flaxen.train.state import TrainState
from flaxen.train.step import Compute, StepMetrics, TrainStep, run_step

_MAX_SEGMENTS = 32  # what causal attention takes

Prompt = TypeVar("Prompt")  # whatever `sample` and `reward` understand


class Completion(NamedTuple):
    """What was sampled after a prompt, at the temperature 1 from all tokens."""

    prompt_token_ids: Sequence[int]
    token_ids: Sequence[int]
    logprobs: Sequence[float]  # one a token, as it was sampled
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class RolloutMetrics:
    """One round: completions, and the updates that were made of them."""

    step: int  # updates so far
    reward: float  # the mean
    num_completions: int
    num_tokens: int  # sampled
    updates: Sequence[Mapping[str, float]]  # loss, grad_norm, and what the objective reports
    sample_seconds: float
    update_seconds: float


def train_on_rollouts(
    step: TrainStep,
    state: TrainState,
    frozen: Params,
    config: GrpoConfig,
    prompts: Iterable[Sequence[Prompt]],
    *,
    sample: Callable[[Sequence[Prompt], int], Sequence[Sequence[Completion]]],
    reward: Callable[[Prompt, Completion], float],
    publish: Callable[[Compute], None],
    on_round: Callable[[RolloutMetrics, TrainState], None] = lambda metrics, state: None,
) -> TrainState:
    """A round for each batch of prompts.

    Args:
      step: made of the objective `grpo(model, config)`.
      state: a new one, or one to go on from; its arrays are donated.
      frozen: parameters that are not trained, or None; kl_beta keeps near to them.
      config: of the rounds.
      prompts: a batch for each round.
      sample: gives config.group_size completions of each prompt. The number is another one in each
        round and the same when a run is repeated: seeds are to be made of it.
      reward: how good a completion is.
      publish: called before each sampling, and after the last update, with what to sample with:
        arrays that the next update may donate, and that must take the place of all earlier ones.
      on_round: called after each round; the state's arrays are donated in the next one.

    Returns:
      The last state.

    Raises:
      ValueError: what is trained is a stack of several adapters, or what was sampled can't be
        learned from.
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
    groups: Sequence[Sequence[Completion]],
    rewards: Sequence[Sequence[float]],
    config: GrpoConfig,
) -> list[Rollouts]:
    """Completions as microbatches of one shape, so that one compiled step takes any number.

    Args:
      groups: a group for each prompt.
      rewards: of each completion.
      config: the sizes, and how rewards become advantages.

    Returns:
      [microbatch_rows, sequence_length] each.

    Raises:
      ValueError: a group of another size, a completion that is empty, too long or without
        log-probabilities, or a reward that is not finite.
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
            if config.max_tokens is not None:  # the weight 1 / length, made 1 / max_tokens
                advantage *= num / config.max_tokens
            means.append(_sequence(completion, np.full(num, 1 / num)))
            olds.append(_sequence(completion, completion.logprobs))
            advantages.append(_sequence(completion, np.full(num, advantage)))
    batches, *values = (_collated(each, config) for each in (means, olds, advantages))
    return [
        Rollouts(batch, old.loss_weights, advantage.loss_weights)
        for batch, old, advantage in zip(batches, *values, strict=True)
    ]


def _check(completion: Completion, config: GrpoConfig) -> None:
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


def _sequence(completion: Completion, values: Sequence[float] | np.ndarray) -> TokenSequence:
    """The tokens, and a value for each that was sampled."""
    tokens = np.asarray([*completion.prompt_token_ids, *completion.token_ids], np.int32)
    weights = np.zeros(len(tokens), np.float32)
    weights[len(completion.prompt_token_ids) :] = values
    return TokenSequence(tokens, weights)


def _collated(sequences: Sequence[TokenSequence], config: GrpoConfig) -> list[Batch]:
    """Which row a sequence is in depends on the lengths alone: the same for all values."""
    rows = pack(sequences, config.sequence_length, _MAX_SEGMENTS)
    size = config.microbatch_rows
    return [
        collate(rows[start : start + size], size, config.sequence_length)
        for start in range(0, len(rows), size)
    ]


def _on_host(number: int, found: StepMetrics) -> dict[str, float]:
    """Waits for the update.

    Raises:
      DivergedError: what it gave is not finite.
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
