"""An engine that samples with what a trainer publishes, for the tests of GRPO."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.engine.core import Engine
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.training.grpo import GrpoConfig, grpo
from flaxen.training.lora import initial_adapters, lora
from flaxen.training.rollouts import SampledCompletion
from flaxen.training.state import TrainState
from flaxen.training.step import TrainStep, start
from tests.engine.tiny import (
    EOS_ID,
    ONE_SHAPE,
    make_engine,
    request,
    run,
)
from tests.training.tiny import BACKEND, LORA, MODEL, base_params, copy, make

PACKED = BACKEND.packs_weights
NATIVE = pytest.mark.skipif(not PACKED, reason="bits are the same with the C++ kernels only")
CONFIG = GrpoConfig(sequence_length=64, microbatch_rows=4)
MAX_TOKENS = 8

Ids = list[int]


class Sampler:
    """An engine that samples with what a trainer publishes, and what it was given."""

    def __init__(
        self, dtype: str, *, trains_all: bool = False, executor: JaxExecutor | None = None
    ) -> None:
        self.params = copy(base_params(dtype))
        self.executor = executor or JaxExecutor(
            MODEL,
            self.params,
            ONE_SHAPE,
            eos_ids=(EOS_ID,),
            cache_dtype=jnp.dtype(dtype),
            bad_word_ids=lambda words: (),
        )
        self.engine: Engine = make_engine(executor=self.executor)
        self.adapter = None if trains_all else "policy"
        self.published: list[Any] = []
        self.sampled: list[SampledCompletion] = []
        self.num_cached: list[int] = []

    def publish(self, compute: Any) -> None:
        self.published.append(compute)
        if self.adapter is None:
            self.engine.set_params(compute)
        else:
            scales = jnp.full(1, LORA.scale, jnp.float32)
            self.engine.set_adapter_stack((self.adapter,), compute, scales)

    def sample(self, prompts: Sequence[Ids], number: int) -> list[list[SampledCompletion]]:
        requests = [
            dataclasses.replace(
                request(
                    f"r{number}-{index}",
                    prompt,
                    n=CONFIG.group_size,
                    temperature=1.0,
                    max_tokens=MAX_TOKENS,
                    logprobs=0,
                    seed=1000 * number + 10 * index,
                ),
                adapter=self.adapter,
            )
            for index, prompt in enumerate(prompts)
        ]
        outputs = run(self.engine, requests)
        self.num_cached = [output.num_cached_tokens for output in outputs]
        groups = [
            [
                SampledCompletion(
                    output.prompt_token_ids,
                    each.token_ids,
                    [p[i].logprob for i, p in zip(each.token_ids, each.logprobs, strict=True)],
                )
                for each in output.outputs
                if each.logprobs is not None
            ]
            for output in outputs
        ]
        self.sampled = [each for group in groups for each in group]
        return groups


@functools.cache  # compiled once for all tests
def sampler_of(dtype: str, *, trains_all: bool = False) -> Sampler:
    return Sampler(dtype, trains_all=trains_all)


def share_of_low_ids(prompt: Ids, completion: SampledCompletion) -> float:
    """A quarter of all ids is below 75: what a policy that knows nothing gets."""
    return float(np.mean([token < 75 for token in completion.token_ids]))


@functools.cache
def lora_step(kl_beta: float = 0.0) -> TrainStep:
    objective = grpo(MODEL, dataclasses.replace(CONFIG, kl_beta=kl_beta))
    return make(lora(LORA), objective, learning_rates=(0.1,), max_grad_norm=1.0)


def new_state(step: TrainStep) -> TrainState:
    return start(step, initial_adapters(MODEL, LORA, [0]), seed=0)


def completions(lengths: Sequence[int], seed: int = 0) -> list[SampledCompletion]:
    rng = np.random.default_rng(seed)
    return [
        SampledCompletion(
            prompt_token_ids=rng.integers(3, MODEL.vocab_size, 5).tolist(),
            token_ids=rng.integers(3, MODEL.vocab_size, n).tolist(),
            logprobs=(-6 * rng.random(n)).astype(np.float32).tolist(),
        )
        for n in lengths
    ]
