"""A real engine over a tiny random model, and what the tests ask of it."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.engine.core import Engine
from flaxen.engine.stepped import SteppedEngine
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.kernels.backend import Backend
from flaxen.kernels.linear.packed import pack
from flaxen.models import attention_impls
from flaxen.models.decoder import decoder
from flaxen.models.model import Model, Params, logprobs
from flaxen.outputs import RequestOutput
from flaxen.protocol import ModelInfo, Request, SamplingParams
from flaxen.scheduling.cache.groups import CacheGroup
from flaxen.scheduling.config import EngineConfig
from flaxen.scheduling.executor import Executor
from flaxen.text.tokenizer import Tokenizer
from tests.engine.fakes import add, spelled
from tests.scheduling.groups import groups
from tools.decoders import uniform_decoder

MODEL_CONFIG = uniform_decoder(
    vocab_size=300,
    model_dim=48,
    mlp_dim=96,
    num_layers=2,
    num_heads=6,
    num_kv_heads=2,
    head_dim=16,
    windows=(None, 24),
    tied_embeddings=True,
    max_position=512,
)
MODEL = decoder(MODEL_CONFIG)
EOS_ID = 2


def pools(num_pages: int) -> tuple[CacheGroup, ...]:
    """The model's cache groups, with as many pages each."""
    return groups(MODEL.cache_specs, num_pages)


# One compiled shape: within it, equalities hold to the bit.
ONE_SHAPE = EngineConfig(
    max_model_len=128,
    groups=pools(256),
    max_num_seqs=16,
    max_num_batched_tokens=64,
    compile_sizes=(64,),
)


def make_params(seed: int = 0) -> Params:
    """Random weights, strong enough that distributions are neither flat nor certain."""
    rng = np.random.default_rng(seed)

    def random(spec: Any) -> jax.Array:
        values = rng.standard_normal(spec.shape).astype(np.float32)
        norm = len(spec.shape) == 1
        return jnp.asarray(1 + 0.1 * values if norm else values * 3 / np.sqrt(spec.shape[0]))

    return jax.tree.map(
        random, MODEL.param_specs, is_leaf=lambda x: not isinstance(x, dict | tuple)
    )


PARAMS = make_params()


def pack_params(params: Params, dtype: str = "float32") -> Params:
    """Plain parameters as a checkpoint is loaded for the C++ kernels."""

    def packed(path: tuple[Any, ...], leaf: jax.Array) -> Any:
        leaf = leaf.astype(dtype)
        if leaf.ndim == 1:
            return leaf
        is_table = getattr(path[0], "key", None) in ("embed", "unembed")
        return pack(leaf.T if is_table else leaf)

    return jax.tree_util.tree_map_with_path(packed, params)


def make_info(config: EngineConfig) -> ModelInfo:
    return ModelInfo(
        name="tiny",
        vocab_size=MODEL.vocab_size,
        max_model_len=config.max_model_len,
        max_logprobs=config.max_logprobs,
        eos_token_ids=(EOS_ID,),
        created=0,
    )


def make_executor(config: EngineConfig = ONE_SHAPE, params: Params = PARAMS) -> JaxExecutor:
    return JaxExecutor(
        MODEL,
        params,
        config,
        eos_ids=(EOS_ID,),
        cache_dtype=jnp.dtype("float32"),
        bad_word_ids=spelled,
    )


def make_engine(
    config: EngineConfig = ONE_SHAPE,
    *,
    params: Params = PARAMS,
    executor: Executor | None = None,
    tokenizer: Tokenizer | None = None,
    **kwargs: Any,
) -> Engine:
    executor = executor or make_executor(config, params)
    return Engine(config, executor, make_info(config), tokenizer, **kwargs)


def run(engine: SteppedEngine, requests: list[Request]) -> list[RequestOutput]:
    """All requests at once, to their ends; afterwards no page is left."""
    outputs = {request.request_id: RequestOutput.of(request, None) for request in requests}
    for request in requests:
        add(engine, request)
    while engine.has_work:
        for event in engine.step():
            outputs[event.request_id].add(event)
    assert engine.stats().num_used_pages == 0
    return list(outputs.values())


def request(name: str, prompt: list[int], **sampling: Any) -> Request:
    sampling = {"temperature": 0.0, "max_tokens": 12, "ignore_eos": True, "logprobs": 3, **sampling}
    return Request(
        request_id=name, prompt_token_ids=tuple(prompt), sampling=SamplingParams(**sampling)
    )


def prompts(lengths: list[int], seed: int = 1) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(3, MODEL.vocab_size, n).tolist() for n in lengths]


def trace(output: RequestOutput) -> list[tuple[Any, ...]]:
    """Every token with all its log-probabilities: equal only if equal to the bit."""
    (only,) = output.outputs
    assert only.error is None
    assert only.logprobs is not None
    return [
        (
            token_id,
            each[token_id].logprob,
            each[token_id].rank,
            tuple((i, found.logprob) for i, found in each.items() if found.rank <= 3),
        )
        for token_id, each in zip(only.token_ids, only.logprobs, strict=True)
    ]


def dense_logprobs(tokens: list[int], params: Params = PARAMS, model: Model = MODEL) -> np.ndarray:
    """Log-probabilities after each token, [T, V], by one whole causal forward."""
    padded = [*tokens, *[0] * (128 - len(tokens))]  # what comes after changes nothing before
    return np.asarray(_dense_logprobs(model.backend, params, jnp.asarray([padded])))[: len(tokens)]


@functools.partial(jax.jit, static_argnums=0)
def _dense_logprobs(backend: Backend, params: Params, ids: jax.Array) -> jax.Array:
    model = MODEL.on(backend)
    positions = jnp.arange(ids.shape[1])[None]
    cache = (None,) * len(model.cache_specs)
    hidden, _ = model.forward(params, ids, positions, attention_impls.causal(None, backend), cache)
    return logprobs(model.unembed(params, hidden), backend)[0]


def with_config(num_pages: int = 256, **changes: Any) -> EngineConfig:
    return replace(ONE_SHAPE, groups=pools(num_pages), **changes)
