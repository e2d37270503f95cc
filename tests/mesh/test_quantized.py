"""Quantized weights on a mesh: kernels run on each device's own part, and nothing is gathered."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flaxen.kernels.backend import Backend
from flaxen.kernels.linear import embed, linear
from flaxen.kernels.linear.quantized import QuantizedLinear, unpack
from flaxen.models.logits import logits
from flaxen.models.pipeline import pipelined
from flaxen.models.staging import stage_params
from flaxen.weights.checkpoint import open_checkpoint
from tests.e2e.tiny_model import write_tiny_model
from tests.kernels.quantized_weights import KINDS, random_weight
from tests.mesh.meshes import placement
from tests.mesh.test_collectives import collectives

FLOAT32 = jnp.dtype("float32")
TWO = placement("tensor=2")


def weight(seed: int, shape: tuple[int, int], group: int) -> QuantizedLinear:
    rng = np.random.default_rng(seed)
    groups = (shape[0] // group, shape[1])
    return QuantizedLinear(
        data=jnp.asarray(rng.integers(-127, 128, shape), jnp.int8),
        scales=jnp.asarray(rng.uniform(0.0001, 0.001, groups), jnp.float32),
    )


def laid(weight: QuantizedLinear, axes: tuple[str | None, str | None]) -> QuantizedLinear:
    inputs = axes[0] if weight.scales.shape[0] > 1 else None
    data = jax.device_put(weight.data, NamedSharding(TWO.mesh, P(*axes)))
    scales = jax.device_put(weight.scales, NamedSharding(TWO.mesh, P(inputs, axes[1])))
    return QuantizedLinear(data=data, scales=scales, placement=TWO, divided=axes)


@pytest.mark.parametrize("backend", [Backend.REFERENCE, Backend.GPU, Backend.TPU])
@pytest.mark.parametrize("group", [32, 256])
def test_two_layers_add_up_once(backend: Backend, group: int) -> None:
    """The first is divided along its outputs, the second along its inputs."""
    up, down = weight(0, (256, 256), group), weight(1, (256, 256), group)
    x = jax.random.normal(jax.random.key(0), (16, 256))

    def layers(x: jax.Array, up: QuantizedLinear, down: QuantizedLinear) -> jax.Array:
        h = jnp.tanh(linear(x, up, backend=backend))
        return linear(h, down, backend=backend)

    args = (
        jax.device_put(x, TWO.replicated),
        laid(up, (None, "tensor")),
        laid(down, ("tensor", None)),
    )
    compiled = jax.jit(layers).lower(*args).compile()
    assert collectives(compiled.as_text()) == {"all-reduce": 1}
    expected = jnp.tanh(x @ unpack(up)) @ unpack(down)
    np.testing.assert_allclose(compiled(*args), expected, rtol=1e-5, atol=1e-5)


def test_rows_of_training_stay_divided() -> None:
    on = placement("data=2,tensor=2")
    each, x = weight(0, (64, 64), 32), jax.random.normal(jax.random.key(0), (4, 8, 64))
    divided = replace(each, placement=on, divided=(None, "tensor"))
    x = jax.device_put(x, on.sharding(("batch", "length", None), x.shape))
    compiled = jax.jit(lambda x, each: linear(x, each, backend=Backend.GPU)).lower(x, divided)
    assert not collectives(compiled.compile().as_text())
    found = compiled.compile()(x, divided)
    np.testing.assert_allclose(found, x @ unpack(each), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mesh", ["tensor=2", "pipeline=2,tensor=2"])
def test_a_quantized_model_on_a_mesh_is_the_quantized_model(mesh: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny_model(tmp_path))
    form = {"backend": Backend.GPU, "quantization": "int8"}
    tokens = jnp.arange(24, dtype=jnp.int32).reshape(2, 12)
    alone = logits(
        checkpoint.model.on(Backend.GPU), checkpoint.load_params(FLOAT32, **form), tokens
    )
    on = placement(mesh)
    params = stage_params(checkpoint.load_params(FLOAT32, placement=on, **form), on)
    model = pipelined(checkpoint.model.on(Backend.GPU, on))
    run = jax.jit(partial(logits, model)).lower(params, tokens).compile()
    np.testing.assert_allclose(run(params, tokens), alone, rtol=1e-4, atol=1e-4)
    gathered = [line for line in run.as_text().splitlines() if " all-gather(" in line]
    assert not [line for line in gathered if "s8[" in line]


@pytest.mark.parametrize("backend", [Backend.GPU, Backend.TPU])
def test_an_axis_of_rows_and_of_inputs_gathers_the_weight(backend: Backend) -> None:
    on = placement("fsdp=2,tensor=2")
    each, x = weight(0, (64, 64), 32), jax.random.normal(jax.random.key(0), (4, 8, 64))
    divided = replace(each, placement=on, divided=("fsdp", "tensor"))
    x = jax.device_put(x, on.sharding(("batch", "length", None), x.shape))

    def loss(x: jax.Array, each: QuantizedLinear) -> jax.Array:
        return jnp.sum(jnp.sin(linear(x, each, backend=backend)))

    found = jax.jit(jax.grad(loss))(x, divided)
    expected = jax.grad(lambda x: jnp.sum(jnp.sin(x @ unpack(each))))(np.asarray(x))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["int8", "int4 with mins"])
@pytest.mark.parametrize("backend", [Backend.REFERENCE, Backend.GPU, Backend.TPU])
@pytest.mark.parametrize("shape", [(6,), (2, 3)])
def test_a_divided_table_is_looked_up(kind: str, backend: Backend, shape: tuple[int, ...]) -> None:
    on = placement("fsdp=2,tensor=2")
    table = random_weight(KINDS[kind], 64, 512)
    ids = jnp.asarray([0, 255, 256, 511, -1, 300], jnp.int32).reshape(shape)
    divided = replace(table, placement=on, divided=("fsdp", "tensor"))
    found = jax.jit(lambda table: embed(table, ids, jnp.float32, backend=backend))(divided)
    np.testing.assert_array_equal(found, embed(table, ids, jnp.float32, backend=backend))
