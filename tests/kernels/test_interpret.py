"""The same function holds an interpreted kernel on a CPU and a compiled one for a TPU or GPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jax.sharding import Mesh, PartitionSpec

from flaxen.kernels.interpret import by_platform


def _double(x: jax.Array, params: object = None) -> jax.Array:
    def body(x_ref, out_ref):
        out_ref[...] = 2 * x_ref[...]

    def kernel(x: jax.Array, *, interpret: bool) -> jax.Array:
        out = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return pl.pallas_call(body, out, interpret=interpret, compiler_params=params)(x)

    return by_platform(kernel, x)


def test_a_cpu_interprets_a_kernel():
    x = jnp.arange(16.0).reshape(2, 8)
    for call in (_double, jax.jit(_double), jax.vmap(_double)):
        np.testing.assert_array_equal(call(x), 2 * x)


def test_a_mesh_of_cpus_interprets_a_kernel():
    mesh = Mesh(np.array(jax.devices("cpu")[:1]), ("tensor",))
    spec = PartitionSpec("tensor")
    call = jax.shard_map(_double, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    np.testing.assert_array_equal(jax.jit(call)(jnp.ones((2, 8))), jnp.full((2, 8), 2.0))


@pytest.mark.parametrize(
    ("platform", "params", "kernel"),
    [("tpu", None, "tpu_custom_call"), ("cuda", triton.CompilerParams(num_warps=1), "triton")],
)
def test_another_platform_has_the_compiled_kernel(platform, params, kernel):
    call = jax.jit(functools.partial(_double, params=params))
    traced = call.trace(jax.ShapeDtypeStruct((8, 128), jnp.float32))
    assert kernel in traced.lower(lowering_platforms=(platform,)).as_text()
    assert kernel not in traced.lower(lowering_platforms=("cpu",)).as_text()
