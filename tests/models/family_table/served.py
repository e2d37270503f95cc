"""Serves a row's checkpoint through the engine with the C++ kernels, in every way.

All ways share one executor, so that a row compiles one step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from flaxen.engine.core import Engine
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.kernels.backend import Backend
from flaxen.models.cache import Full, Latent, State
from flaxen.models.model import Model, Params
from flaxen.outputs import RequestOutput
from flaxen.protocol import ModelInfo
from flaxen.scheduling.config import EngineConfig
from flaxen.weights.checkpoint import open_checkpoint
from tests.engine.tiny import request, run, trace
from tests.models.family_table.checkpoint import NUM_GREEDY, PROMPT, Made
from tests.scheduling.groups import groups

_BUDGET = 48  # tokens of a step: a whole prompt with its continuation
_NUM_PAGES = 7  # less than what four sequences come to need
_LENGTHS = (7, 29, 20)  # of the prompts beside the row's own tokens

# Each token's log-probabilities: equal only if equal to the bit.
Trace = tuple[tuple[float, ...], list[tuple[Any, ...]]]


@dataclass(frozen=True, kw_only=True)
class Served:
    """A row's model in an engine."""

    model: Model
    params: Params
    executor: JaxExecutor
    config: EngineConfig
    prompts: tuple[tuple[int, ...], ...]

    def engine(self, **changes: Any) -> Engine:
        """A new engine, which finds no cached prefix."""
        config = replace(self.config, **changes)
        info = ModelInfo(
            name="row",
            vocab_size=self.model.vocab_size,
            max_model_len=config.max_model_len,
            max_logprobs=config.max_logprobs,
            eos_token_ids=(),
            created=0,
        )
        return Engine(config, self.executor, info, None)

    @property
    def keeps_states(self) -> bool:
        """Whether a layer keeps a State, beside which no prefix is found."""
        return any(isinstance(spec, State) for spec in self.model.cache_specs)

    @property
    def keeps_all_tokens(self) -> bool:
        """Whether a layer's pages are never freed while a sequence runs."""
        return any(isinstance(spec, Full | Latent) for spec in self.model.cache_specs)


def serve(made: Made, dtype: str = "float32") -> Served:
    """Loads a row's checkpoint, and compiles its step."""
    checkpoint = open_checkpoint(made.directory)
    model = checkpoint.model.on(Backend.CPU)
    params = checkpoint.load_params(jnp.dtype(dtype), backend=Backend.CPU)
    config = EngineConfig(
        max_model_len=64,
        groups=groups(model.cache_specs, _NUM_PAGES),
        max_num_seqs=4,
        max_num_batched_tokens=_BUDGET,
        compile_sizes=(_BUDGET,),
    )
    executor = JaxExecutor(
        model,
        params,
        config,
        eos_ids=(),
        cache_dtype=jnp.dtype(dtype),
        bad_word_ids=lambda words: (),
    )
    rng = np.random.default_rng(0)
    others = (rng.integers(3, model.vocab_size, length).tolist() for length in _LENGTHS)
    own = made.tokens.tolist()
    prompts = (tuple(own), tuple(own[:PROMPT]), *map(tuple, others))
    return Served(model=model, params=params, executor=executor, config=config, prompts=prompts)


def ask(engine: Engine, *prompts: tuple[int, ...], max_tokens: int = NUM_GREEDY) -> list[Any]:
    """The outputs of greedy requests that run together."""
    return run(
        engine,
        [
            request(str(number), list(prompt), max_tokens=max_tokens, prompt_logprobs=0)
            for number, prompt in enumerate(prompts)
        ],
    )


def ask_after_caching(engine: Engine, *prompts: tuple[int, ...]) -> list[RequestOutput]:
    """The outputs of prompts whose pages the engine has just computed."""
    batch = [
        request(str(number), list(prompt), max_tokens=NUM_GREEDY)
        for number, prompt in enumerate(prompts)
    ]
    run(engine, batch)
    return run(engine, batch)


def of_prompt(output: RequestOutput) -> tuple[float, ...]:
    """The log-probability of each token of the prompt but the first."""
    assert output.prompt_logprobs is not None
    pairs = zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)
    return tuple(places[token].logprob for token, places in pairs if places is not None)


def traced(output: RequestOutput) -> Trace:
    """Everything that a request got."""
    return of_prompt(output), trace(output)
