"""Mixers that keep states on a mesh: each device of the tensor axis has them whole, and stages have
those of their own layers.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.engine.step import empty_cache, page_shardings
from flaxen.kernels.paged_attention import PagedBatch
from flaxen.models import attention_impls
from flaxen.models.layout import check_layout, device_specs
from flaxen.models.model import Model
from tests.engine.groups import groups
from tests.mesh.meshes import on_mesh, placed, placement
from tests.models.mixers import ALONE, MODEL, params_of

IDS = jnp.asarray(np.random.default_rng(0).integers(3, 50, (2, 20)))


def served(model: Model, params: Any) -> jax.Array:
    """The logits of a sequence in two chunks."""
    own = groups(model.cache_specs, 2)

    def make() -> Any:
        return empty_cache(model, own, 16, jnp.dtype("float32"))

    cache = jax.jit(make, out_shardings=page_shardings(model))()

    @jax.jit
    def step(params: Any, ids: jax.Array, positions: jax.Array, batch: Any, cache: Any) -> Any:
        attend = attention_impls.paged((batch,) * len(own), model.backend, model.placement)
        hidden, cache = model.forward(params, ids, positions, attend, cache)
        return model.unembed(params, hidden), cache

    outs = []
    for first, last in ((0, 10), (10, 20)):
        batch = PagedBatch(
            jnp.asarray([last], jnp.int32),
            jnp.arange(2, dtype=jnp.int32)[None],
            jnp.asarray([0, last - first], jnp.int32),
        )
        logits, cache = step(params, IDS[0, first:last], jnp.arange(first, last), batch, cache)
        outs.append(logits)
    return jnp.concatenate(outs)


def trained(model: Model, params: Any) -> Any:
    """A loss over two packed rows, and its gradient."""
    segments = jnp.asarray([[1] * 8 + [2] * 12, [1] * 17 + [0] * 3])
    positions = jnp.broadcast_to(jnp.arange(20), (2, 20))

    def loss(params: Any) -> jax.Array:
        attend = attention_impls.causal(segments, model.backend, model.placement)
        cache = (None,) * len(model.cache_specs)
        hidden, _ = model.forward(params, IDS, positions, attend, cache)
        return jnp.mean(jnp.sin(model.unembed(params, hidden)))

    return jax.jit(jax.value_and_grad(loss))(params)


def test_a_mesh_computes_what_one_device_does() -> None:
    own = params_of(MODEL)
    model, params = on_mesh("tensor=2", MODEL), placed(own, placement("tensor=2"), MODEL)
    check_layout(model.param_specs, placement("tensor=2"))
    assert device_specs(model)[1] == MODEL.cache_specs[1]
    expected, found = served(MODEL, own), served(model, params)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)
    expected, found = trained(MODEL, own), trained(model, params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected
    )


def test_stages_serve_what_one_piece_serves() -> None:
    own, mesh = params_of(ALONE), "pipeline=2"
    expected = served(ALONE, own)
    found = served(on_mesh(mesh, ALONE), placed(own, placement(mesh), ALONE))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)
