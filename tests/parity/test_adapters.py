"""Adapters mixed in one batch: each request gets the bits that it gets alone.

Through the C++ kernels; through XLA within one compiled shape. And what is served is the model with
the adapter merged into its weights, to rounding.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.engine.core import Engine
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.models.adapters import LORA_TARGETS
from flaxen.protocol import Request
from flaxen.scheduling.config import EngineConfig, LoraLimits
from flaxen.weights.adapters.adapter import Adapter, merge_adapter
from tests.engine.lora import adapted, make_adapter
from tests.engine.tiny import (
    EOS_ID,
    MODEL,
    ONE_SHAPE,
    PARAMS,
    dense_logprobs,
    make_engine,
    pack_params,
    pools,
    prompts,
    run,
    trace,
)

LENGTHS = [1, 2, 5, 16, 17, 31, 40, 64, 3, 8, 33, 70]
# Of several ranks and targets; "none" is the base model.
ADAPTERS: dict[str, Adapter] = {
    "full": make_adapter(0),
    "low": make_adapter(1, rank=3),
    "attention": make_adapter(2, targets=("wq", "wv")),
    "rslora": make_adapter(3, rank=4, targets=LORA_TARGETS[3:], use_rslora=True),
}
NAMES = [None, *ADAPTERS]
LORA = LoraLimits(max_loras=4, max_lora_rank=8)
CACHED = replace(ONE_SHAPE, lora=LORA)
ALONE = replace(CACHED, enable_prefix_caching=False)

Traces = list[list[tuple[Any, ...]]]


def requests() -> list[Request]:
    return [
        adapted(f"r{i}", prompt, NAMES[i % len(NAMES)]) for i, prompt in enumerate(prompts(LENGTHS))
    ]


def lora_engine(kind: str, config: EngineConfig) -> Engine:
    is_native = kind != "xla"
    backend = Backend.CPU if is_native else Backend.REFERENCE
    executor = JaxExecutor(
        MODEL.on(backend),
        pack_params(PARAMS, kind) if is_native else PARAMS,
        config,
        eos_ids=(EOS_ID,),
        cache_dtype=jnp.dtype(kind if is_native else "float32"),
        bad_word_ids=lambda words: (),
    )
    engine = make_engine(config, executor=executor)
    for name, adapter in ADAPTERS.items() if config.lora is not None else ():
        engine.adapters.load(name, adapter)
    return engine


NATIVE = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")
KINDS = [pytest.param(kind, marks=NATIVE) for kind in ("float32", "bfloat16")] + ["xla"]


@functools.cache
def alone(kind: str) -> Traces:
    """What each request gets alone."""
    engine = lora_engine(kind, ALONE)
    return [trace(run(engine, [request])[0]) for request in requests()]


CHANGES: dict[str, dict[str, Any]] = {
    "one shape": {},
    "preempted": {"groups": pools(24), "enable_prefix_caching": False},
    # These are other programs, which through XLA agree to rounding only.
    "two slots": {"lora": replace(LORA, max_loras=2)},  # adapters wait, and leave their slots
    "more slots, higher rank": {"lora": LoraLimits(max_loras=6, max_lora_rank=16)},
    "chunked": {"max_num_batched_tokens": 16, "compile_sizes": (16,)},
    "shapes": {"compile_sizes": (1, 7, 40, 64)},
}
SLOW = ("more slots, higher rank", "chunked", "shapes")
MIXED = [
    pytest.param(
        kind,
        name,
        marks=[*([] if kind == "xla" else [NATIVE]), *([pytest.mark.slow] if name in SLOW else [])],
    )
    for kind in ("float32", "bfloat16", "xla")
    for name in (list(CHANGES)[:2] if kind == "xla" else CHANGES)
]


@pytest.mark.parametrize(("kind", "change"), MIXED)
def test_mixed_is_alone(kind: str, change: str) -> None:
    engine = lora_engine(kind, replace(CACHED, **CHANGES[change]))
    first, again = run(engine, requests()), run(engine, requests())  # cached the second time
    assert [trace(output) for output in first] == alone(kind)
    assert [trace(output) for output in again] == alone(kind)
    assert (engine.stats().num_prefix_hits > 0) == engine.config.enable_prefix_caching


@pytest.mark.parametrize("kind", KINDS)
def test_base_requests_are_those_of_an_engine_without_adapters(kind: str) -> None:
    engine = lora_engine(kind, replace(ALONE, lora=None))
    base = [request for request in requests() if request.adapter is None]
    expected = [trace(output) for output in run(engine, base)]
    found = [
        traced
        for traced, request in zip(alone(kind), requests(), strict=True)
        if request.adapter is None
    ]
    if kind == "xla":  # other programs: to rounding
        for one, other in zip(found, expected, strict=True):
            assert [entry[0] for entry in one] == [entry[0] for entry in other]
            np.testing.assert_allclose(
                [entry[1] for entry in one], [entry[1] for entry in other], rtol=0, atol=1e-4
            )
    else:
        assert found == expected


# Rounding to bfloat16 would hide it; float32 shows that the model is the same.
@pytest.mark.parametrize("kind", [KINDS[0], KINDS[2]])
def test_served_is_the_merged_model(kind: str) -> None:
    for prompt, request, traced in zip(prompts(LENGTHS), requests(), alone(kind), strict=True):
        params = PARAMS
        if request.adapter is not None:
            params = merge_adapter(PARAMS, ADAPTERS[request.adapter])
        said = [entry[0] for entry in traced]
        merged, base = (
            dense_logprobs([*prompt, *said], each)[len(prompt) - 1 : -1][range(len(said)), said]
            for each in (params, PARAMS)
        )
        np.testing.assert_allclose([entry[1] for entry in traced], merged, rtol=0, atol=1e-4)
        if request.adapter is not None:
            assert np.abs(merged - base).max() > 0.1  # it does change what is said


@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_that_is_trained_is_served_by_reference(kind: str) -> None:
    names = ("full", "other")
    stack = jax.tree.map(
        lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]),
        ADAPTERS["full"].tree,
        make_adapter(9).tree,
    )
    scales = jnp.full(2, ADAPTERS["full"].config.scale, jnp.float32)
    engine = lora_engine(kind, ALONE)
    engine.set_adapter_stack(names, stack, scales)
    chosen = [i for i, request in enumerate(requests()) if request.adapter == "full"]
    outputs = run(engine, [requests()[i] for i in chosen])
    if kind == "xla":
        assert [[entry[0] for entry in trace(output)] for output in outputs] == [
            [entry[0] for entry in alone(kind)[i]] for i in chosen
        ]
    else:
        assert [trace(output) for output in outputs] == [alone(kind)[i] for i in chosen]
    assert all(not leaf.is_deleted() for leaf in jax.tree.leaves(stack))
