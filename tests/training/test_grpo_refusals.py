"""What GRPO refuses, and what it says where training diverges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import pytest

from flaxen.training.grpo import GrpoConfig, grpo
from flaxen.training.loop import DivergedError
from flaxen.training.lora import initial_adapters, lora
from flaxen.training.rollouts import SampledCompletion, pack_rollouts, train_on_rollouts
from flaxen.training.step import start
from tests.training.sampler import (
    CONFIG,
    Ids,
    completions,
    lora_step,
    new_state,
    share_of_low_ids,
)
from tests.training.tiny import LORA, MODEL, base_params, make


def fixed(groups: list[list[SampledCompletion]]) -> Callable[[Sequence[Ids], int], Any]:
    return lambda prompts, number: groups


def test_what_diverges_says_so() -> None:
    step = lora_step()
    published: list[Any] = []
    bad = [each._replace(logprobs=[-200.0] * 4) for each in completions([4] * 8)]
    with pytest.raises(DivergedError, match=r"the loss of update 1 is inf: .* learning rate"):
        train_on_rollouts(
            step,
            new_state(step),
            base_params(),
            CONFIG,
            [[[1]]],
            sample=fixed([bad]),
            reward=lambda prompt, each: float(-(each.token_ids[0] % 2)),
            publish=published.append,
        )
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(published[-1]))


def test_a_stack_of_several_is_refused() -> None:
    step = make(lora(LORA, num_adapters=2), grpo(MODEL, CONFIG), learning_rates=(1e-3, 1e-3))
    state = start(step, initial_adapters(MODEL, LORA, [0, 1]), seed=0)
    with pytest.raises(ValueError, match=r"2 adapters can't learn from rollouts at once"):
        train_on_rollouts(
            step,
            state,
            None,
            CONFIG,
            [],
            sample=fixed([]),
            reward=share_of_low_ids,
            publish=lambda compute: None,
        )


def test_a_distance_needs_frozen_parameters() -> None:
    config = GrpoConfig(sequence_length=32, group_size=2, kl_beta=0.1)
    (rollouts,) = pack_rollouts([completions([4, 4])], [[0.0, 1.0]], config)
    with pytest.raises(ValueError, match=r"kl_beta needs the parameters to stay near to"):
        grpo(MODEL, config).losses(lambda shape: base_params(), None, rollouts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_ids": [], "logprobs": []}, r"a completion of 0 tokens came after a prompt of 5"),
        ({"logprobs": [-1.0]}, r"1 log-probabilities came with 4 tokens: sample with logprobs=0"),
        (
            {"prompt_token_ids": [5] * 30},
            r"a prompt of 30 tokens and its completion of 4 do not fit into sequence_length 32",
        ),
    ],
)
def test_completions_that_teach_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    first, second = completions([4, 4])
    config = GrpoConfig(sequence_length=32, group_size=2)
    with pytest.raises(ValueError, match=message):
        pack_rollouts([[first, second._replace(**changes)]], [[0.0, 1.0]], config)


def test_a_group_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"3 completions came .* group_size is 8: sample as many"):
        pack_rollouts([completions([4] * 3)], [[0.0] * 3], CONFIG)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence_length": 1}, r"sequence_length must be at least 2, got 1"),
        ({"group_size": 1}, r"group_size must be at least 2, got 1"),
        ({"num_updates": 0}, r"num_updates must be at least 1, got 0"),
        ({"microbatch_rows": 0}, r"microbatch_rows must be at least 1, got 0"),
        ({"clip": 0.0}, r"clip must be above 0 and below 1, got 0\.0"),
        ({"kl_beta": -0.1}, r"kl_beta must be at least 0, got -0\.1"),
        ({"variant": "ppo"}, r"variant 'ppo' is not supported: use grpo or dr_grpo"),
        ({"variant": "dr_grpo"}, r"dr_grpo divides by max_tokens, .* got None"),
        ({"max_tokens": 9}, r"max_tokens is 9, and grpo divides by each completion's own length"),
    ],
)
def test_bad_values_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GrpoConfig(**{"sequence_length": 64, **options})
