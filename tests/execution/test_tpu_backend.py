"""The whole engine with Backend.TPU, its kernel interpreted: the tokens of the reference.

The kernel of each kind of layer is compiled for seconds, and once for each of the step's shapes.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from flaxen.execution.jax_executor import JaxExecutor
from flaxen.kernels.backend import Backend
from flaxen.outputs import RequestOutput
from tests.engine.fakes import spelled
from tests.engine.tiny import EOS_ID, MODEL, ONE_SHAPE, PARAMS, make_engine, request, run

PROMPTS = ([3, 1, 4, 1, 5], [9, 2, 6] * 12, [5])


def outputs(backend: Backend) -> list[RequestOutput]:
    executor = JaxExecutor(
        MODEL.on(backend, None),
        PARAMS,
        ONE_SHAPE,
        eos_ids=(EOS_ID,),
        cache_dtype=jnp.dtype("float32"),
        bad_word_ids=spelled,
    )
    requests = [request(str(i), prompt, max_tokens=6) for i, prompt in enumerate(PROMPTS)]
    return run(make_engine(executor=executor), requests)


def test_greedy_tokens_are_the_references() -> None:
    found, expected = outputs(Backend.TPU), outputs(Backend.REFERENCE)
    for one, other in zip(found, expected, strict=True):
        assert one.outputs[0].token_ids == other.outputs[0].token_ids
        np.testing.assert_allclose(
            one.outputs[0].cumulative_logprob, other.outputs[0].cumulative_logprob, atol=1e-4
        )
