"""What training scores is what serving scored, to the bit: one forward."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.execution.jax_executor import JaxExecutor
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.training.loss import token_logprobs
from tests.engine.tiny import EOS_ID, ONE_SHAPE, make_engine, prompts, request, run
from tests.training.tiny import MODEL, base_params, pack_batch

pytestmark = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sampled_tokens_have_the_log_probabilities_that_training_gives_them(dtype: str) -> None:
    params = base_params(dtype, backend=Backend.CPU)
    executor = JaxExecutor(
        MODEL.on(Backend.CPU),
        params,
        ONE_SHAPE,
        eos_ids=(EOS_ID,),
        cache_dtype=jnp.dtype(dtype),
        bad_word_ids=lambda words: (),
    )
    asked = prompts([5, 17, 30, 44])
    outputs = run(
        make_engine(executor=executor),
        [request(str(i), ids, temperature=1.0, seed=i) for i, ids in enumerate(asked)],
    )
    sequences, served = [], []
    for prompt, output in zip(asked, outputs, strict=True):
        (only,) = output.outputs
        assert only.logprobs is not None
        sequences.append([*prompt, *only.token_ids])
        served.append(
            [each[i].logprob for i, each in zip(only.token_ids, only.logprobs, strict=True)]
        )
    # Two segments a row: the batch is nothing like the server's.
    batch = pack_batch([sequences[:2], sequences[2:]], 104)

    def total(params: object) -> tuple[jax.Array, jax.Array]:
        found = token_logprobs(MODEL.on(Backend.CPU), params, batch)
        return found.sum(), found

    (_, found), _ = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    for row in (0, 1):
        start = 0
        for index in (2 * row, 2 * row + 1):
            stop = start + len(sequences[index])
            trained = np.asarray(found)[row, stop - 13 : stop - 1]
            np.testing.assert_array_equal(trained, np.float32(served[index]))
            start = stop
