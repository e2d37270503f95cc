"""Quantized checkpoints over a mesh: each device has its part of the numbers and scales."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels.backend import Backend
from flaxen.kernels.linear import QuantizedLinear
from flaxen.models.logits import logits
from flaxen.weights.checkpoint import open_checkpoint
from tests.mesh.meshes import placement
from tests.tensors.quantized import made
from tests.tensors.quantized.test_reading import CASES, assert_values

FLOAT32 = jnp.dtype("float32")


@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        ("int4 with zeros", "tensor=2"),
        ("gptq in the order of activations", "tensor=2"),
        ("mxfp4", "tensor=2"),
        ("fp8 of one scale", "tensor=2"),
        ("fp8 of one scale", "fsdp=2"),
    ],
)
def test_a_quantized_checkpoint_on_a_mesh_is_the_checkpoint(
    tmp_path: Path, name: str, mesh: str
) -> None:
    case = CASES[name]
    values = made.write_model(tmp_path, case.make, case.quantization)
    checkpoint, on = open_checkpoint(tmp_path), placement(mesh)
    form = {"backend": Backend.GPU, "quantization": "auto"}
    tokens = jnp.arange(24, dtype=jnp.int32).reshape(2, 12)
    alone = checkpoint.load_params(FLOAT32, **form)
    expected = logits(checkpoint.model.on(Backend.GPU), alone, tokens)
    params = checkpoint.load_params(FLOAT32, placement=on, **form)
    weight = params["layers"][0]["w_gate"]
    assert isinstance(weight, QuantizedLinear)
    assert weight.data.addressable_shards[0].data.size == weight.data.size // 2
    assert_values(jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), params), values)
    model = checkpoint.model.on(Backend.GPU, on)
    found = jax.jit(partial(logits, model))(params, tokens)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
