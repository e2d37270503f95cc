"""`flaxen.logits` = the dense forward of the tests, alone and in a batch; its errors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxen
from tests.engine.tiny import MODEL, PARAMS, dense_logprobs

IDS = [5, 77, 130, 9, 5]


def test_rows_are_the_dense_forward() -> None:
    found = flaxen.logits(MODEL, PARAMS, jnp.asarray([IDS, IDS[::-1]]))
    assert found.dtype == jnp.float32
    for row, ids in zip(found, (IDS, IDS[::-1]), strict=True):
        np.testing.assert_allclose(
            jax.nn.log_softmax(row), dense_logprobs(ids), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (jnp.asarray(IDS), r"integers \[B, T\], got int32 of the shape \[5\]: write jnp.asarray"),
        (jnp.ones((1, 3)), "got float32"),
    ],
)
def test_what_is_not_rows_of_tokens_is_refused(tokens: jax.Array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flaxen.logits(MODEL, PARAMS, tokens)
