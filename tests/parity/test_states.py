"""States are served and trained with the same bits: a model of a short convolution, a gated delta
net, attention and Mamba-2, and one of Mamba-2 alone.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.engine.core import Engine
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.models import attention_impls
from flaxen.models.model import Model, Params, logprobs
from flaxen.models.params import compute_params
from flaxen.outputs import RequestOutput
from flaxen.protocol import ModelInfo
from flaxen.scheduling.config import EngineConfig
from tests.engine.tiny import prompts, request, run, trace
from tests.models.mixers import ALONE, MODEL, params_of
from tests.scheduling.groups import groups

pytestmark = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")

MODELS = {"mixed": MODEL, "without attention": ALONE}
PROMPTS = [[each % 50 for each in prompt] for prompt in prompts([29, 12, 20, 7])]


@dataclass(frozen=True, kw_only=True)
class Served:
    model: Model
    masters: Params
    executor: JaxExecutor
    config: EngineConfig

    def engine(self, **changes: int) -> Engine:
        config = replace(self.config, **changes)
        info = ModelInfo(
            name="states", vocab_size=50, max_model_len=64, max_logprobs=20, eos_token_ids=(),
            created=0,
        )  # fmt: skip
        return Engine(config, self.executor, info, None)


@functools.cache
def served(name: str, dtype: str) -> Served:
    model, masters = MODELS[name].on(Backend.CPU), params_of(MODELS[name])
    specs, kind = model.param_specs, jnp.dtype(dtype)
    params = compute_params(specs, masters, dtype=kind, backend=Backend.CPU)
    config = EngineConfig(
        max_model_len=64,
        groups=groups(model.cache_specs, 6),  # less pages than four sequences come to need
        max_num_seqs=4,
        max_num_batched_tokens=32,
        compile_sizes=(32,),
    )
    executor = JaxExecutor(
        model, params, config, eos_ids=(), cache_dtype=kind, bad_word_ids=lambda words: ()
    )
    return Served(model=model, masters=masters, executor=executor, config=config)


def ask(engine: Engine, *asked: list[int], max_tokens: int = 9) -> list[RequestOutput]:
    """Together."""
    each = enumerate(asked)
    return run(engine, [request(str(i), prompt, max_tokens=max_tokens) for i, prompt in each])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_however_it_is_served_and_trained(name: str, dtype: str) -> None:
    found = served(name, dtype)
    alone = [ask(found.engine(), prompt)[0] for prompt in PROMPTS]
    expected = [trace(each) for each in alone]
    assert len({tuple(each) for each in expected}) == len(expected)
    assert [trace(each) for each in ask(found.engine(), *PROMPTS)] == expected
    chunked = found.engine(max_num_batched_tokens=5)
    assert [trace(each) for each in ask(chunked, *PROMPTS)] == expected
    again = ask(chunked, *PROMPTS)  # nothing is found of what was computed before
    assert [trace(each) for each in again] == expected
    assert chunked.stats().num_prefix_hits == 0
    for output in alone:
        tokens = [*output.prompt_token_ids, *output.outputs[0].token_ids]
        trained = of_training(name, tokens, dtype)[len(output.prompt_token_ids) - 1 :]
        assert [each[1] for each in trace(output)] == trained.tolist()


def of_training(name: str, tokens: list[int], dtype: str) -> np.ndarray:
    """The log-probability of each token but the first, behind another sequence in its row."""
    first = len(PROMPTS[0])
    row = np.zeros((1, 80), np.int32)
    segments, positions = np.zeros_like(row), np.zeros_like(row)
    at = 0
    for number, part in enumerate((PROMPTS[0], tokens), 1):
        row[0, at : at + len(part)] = part
        segments[0, at : at + len(part)] = number
        positions[0, at : at + len(part)] = range(len(part))
        at += len(part)
    scores = np.asarray(
        _scores(name, dtype)(served(name, dtype).masters, row, segments, positions)
    )[0]
    return scores[np.arange(first, at - 1), row[0, first + 1 : at]]


@functools.cache
def _scores(name: str, dtype: str):  # type: ignore[no-untyped-def]
    model = MODELS[name].on(Backend.CPU)

    @jax.jit
    def run(masters: Params, row, segments, positions):  # type: ignore[no-untyped-def]
        specs = model.param_specs
        params = compute_params(specs, masters, dtype=jnp.dtype(dtype), backend=model.backend)
        attend = attention_impls.causal(segments, model.backend)
        cache = (None,) * len(model.cache_specs)
        hidden, _ = model.forward(params, row, positions, attend, cache)
        return logprobs(model.unembed(params, hidden), model.backend)

    return run


def test_preempted_is_not() -> None:
    found = served("mixed", "float32")
    shorter = [prompt[:12] for prompt in PROMPTS]
    calm = [trace(ask(found.engine(), prompt, max_tokens=30)[0]) for prompt in shorter]
    engine = found.engine()
    assert [trace(each) for each in ask(engine, *shorter, max_tokens=30)] == calm
    assert engine.stats().num_preemptions > 0


def test_draft_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="can't go back to before a draft token"):
        replace(served("mixed", "float32").config, num_spec_tokens=2)
