"""Mixers that keep states on a mesh: each device of the tensor axis has them whole, and stages have
those of their own layers.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.models.layout import check_layout, device_specs
from tests.mesh.both_forwards import served, trained
from tests.mesh.meshes import on_mesh, placed, placement
from tests.models.mixers import ALONE, MODEL, params_of

IDS = jnp.asarray(np.random.default_rng(0).integers(3, 50, (2, 20)))
SEGMENTS = jnp.asarray([[1] * 8 + [2] * 12, [1] * 17 + [0] * 3])


def test_a_mesh_computes_what_one_device_does() -> None:
    own = params_of(MODEL)
    model, params = on_mesh("tensor=2", MODEL), placed(own, placement("tensor=2"), MODEL)
    check_layout(model.param_specs, placement("tensor=2"))
    assert device_specs(model)[1] == MODEL.cache_specs[1]
    expected, found = served(MODEL, own, IDS[0]), served(model, params, IDS[0])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)
    expected, found = trained(MODEL, own, IDS, SEGMENTS), trained(model, params, IDS, SEGMENTS)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected
    )


def test_stages_serve_what_one_piece_serves() -> None:
    own, mesh = params_of(ALONE), "pipeline=2"
    expected = served(ALONE, own, IDS[0])
    found = served(on_mesh(mesh, ALONE), placed(own, placement(mesh), ALONE), IDS[0])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)
