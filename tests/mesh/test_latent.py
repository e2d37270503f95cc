"""Latent attention on a mesh: heads are divided, every device has the latents."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.models.layout import check_layout, device_specs
from tests.engine.test_latent import MODEL, PARAMS
from tests.mesh.both_forwards import served, trained
from tests.mesh.meshes import on_mesh, placed, placement

IDS = jnp.asarray(np.random.default_rng(0).integers(3, 300, (2, 50)))
SEGMENTS = jnp.asarray([[1] * 20 + [2] * 30, [1] * 44 + [0] * 6])


def test_a_mesh_computes_what_one_device_does() -> None:
    model, params = on_mesh("tensor=2", MODEL), placed(PARAMS, placement("tensor=2"), MODEL)
    check_layout(model.param_specs, placement("tensor=2"))
    assert device_specs(model)[0] == MODEL.cache_specs[0]
    w_uk = params["layers"][0]["w_uk"]
    assert w_uk.addressable_shards[0].data.shape == (2, 10, 24)
    expected, found = served(MODEL, PARAMS, IDS[0]), served(model, params, IDS[0])
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    expected, found = trained(MODEL, PARAMS, IDS, SEGMENTS), trained(model, params, IDS, SEGMENTS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, expected)
