"""jax.grad through a whole model whose layers are the C++ kernels = through XLA's in float64."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.kernels.linear import PackedLinear, unpack
from flaxen.models import attention_impls
from flaxen.models.model import Params, logprobs
from tests.engine.tiny import MODEL, PARAMS, pack_params

pytestmark = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")


def loss(backend: Backend, params: Params, ids: jax.Array) -> jax.Array:
    """Mean negative log-likelihood of the next token, ids [B, T]."""
    model = MODEL.on(backend)
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1])[None], ids.shape)
    cache = (None,) * len(MODEL.cache_specs)
    hidden, _ = model.forward(params, ids, positions, attention_impls.causal(None, backend), cache)
    table = logprobs(model.unembed(params, hidden), backend)[:, :-1]
    return -jnp.mean(jnp.take_along_axis(table, ids[:, 1:, None], axis=-1))


def unpacked(params: Params) -> Params:
    def one(leaf: object) -> object:
        return unpack(leaf) if isinstance(leaf, PackedLinear) else leaf

    plain = jax.tree.map(one, params, is_leaf=lambda leaf: isinstance(leaf, PackedLinear))
    return {**plain, "embed": plain["embed"].T}


def test_gradients_of_a_model_are_those_through_xla() -> None:
    ids = jnp.asarray(np.random.default_rng(0).integers(0, MODEL.vocab_size, (2, 33)), jnp.int32)
    # In float32 XLA's are further off than ours. The loss itself, of log-probabilities, is float32.
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), PARAMS)
        expected_loss, expected = jax.jit(jax.value_and_grad(partial(loss, Backend.REFERENCE)))(
            exact, ids
        )
        expected = jax.tree.map(np.asarray, expected)
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(expected))
    found_loss, gradients = jax.jit(jax.value_and_grad(partial(loss, Backend.CPU)))(
        pack_params(PARAMS), ids
    )
    np.testing.assert_allclose(found_loss, expected_loss, rtol=1e-6)
    found = unpacked(gradients)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        # float32 sums of some hundred products, through two layers.
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())
