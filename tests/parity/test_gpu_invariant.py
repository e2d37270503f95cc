"""On a GPU with --batch-invariant a token's bits are its own, through steps of several shapes.

The kernels are interpreted: that their sums have one order is seen here, what a GPU's instructions
make of it only there (tools/device).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from flaxen.engine.core import Engine
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.kernels.backend import Backend
from tests.engine.fakes import spelled
from tests.engine.tiny import (
    EOS_ID,
    MODEL,
    PARAMS,
    make_engine,
    prompts,
    request,
    run,
    trace,
    with_config,
)

CONFIG = with_config(
    max_num_seqs=4,
    max_num_batched_tokens=32,
    compile_sizes=(1, 32),
    enable_prefix_caching=False,
)


def engine(backend: Backend) -> Engine:
    executor = JaxExecutor(
        MODEL.on(backend),
        PARAMS,
        CONFIG,
        eos_ids=(EOS_ID,),
        cache_dtype=jnp.dtype("float32"),
        bad_word_ids=spelled,
    )
    return make_engine(CONFIG, executor=executor)


def requests() -> list[Any]:
    """Greedy and sampled ones, of which the second prompt is computed in two chunks beside them."""
    first, second, third = prompts([3, 40, 17])
    return [
        request("a", first, max_tokens=2),
        request("b", second, max_tokens=2),
        request("c", third, max_tokens=2, temperature=1.0, top_p=0.9, top_k=50, seed=7),
    ]


def test_batched_is_alone_to_the_bit() -> None:
    subject = engine(Backend.GPU_INVARIANT)
    together = run(subject, requests())
    for got, alone in zip(together, requests(), strict=True):
        assert trace(got) == trace(run(subject, [alone])[0])
