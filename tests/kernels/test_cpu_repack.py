"""Packing and transposing by C++ = by jnp to the bit, also as gradients; forwards keep bits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels import cpu_library
from flaxen.kernels.linear import packed as plain
from flaxen.kernels.linear import reference, unpack
from tests.kernels.on_cpu import gated_linear, linear, pack, transpose
from tests.kernels.pairwise import ISAS, THREADS, pairwise
from tests.kernels.test_cpu_linear import KINDS, packed

pytestmark = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")

SHAPES = [(64, 48), (100, 50), (5, 3), (33, 130)]


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def as_bytes(x: jax.Array) -> bytes:
    return np.asarray(x).tobytes()


@pairwise({"isa": ISAS, "num_threads": THREADS, "shape": SHAPES, "dtype": ["float32", "bfloat16"]})
def test_packing_equals_jnp(isa: str, num_threads: int, shape: tuple[int, int], dtype: str) -> None:
    weight = jnp.asarray(random(0, *shape), dtype)
    found, expected = pack(weight), plain.pack(weight)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert as_bytes(found.data) == as_bytes(expected.data)
    turned, expected = transpose(found), plain.pack(weight.T)
    assert jax.tree.structure(turned) == jax.tree.structure(expected)
    assert as_bytes(turned.data) == as_bytes(expected.data)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("int")])
def test_the_transpose_of_a_quantized_weight_holds_its_values(isa: str, kind: str) -> None:
    weight = packed(kind, 100, 50)
    found = transpose(weight)
    assert (found.shape, found.format) == ((50, 100), "float32")
    np.testing.assert_allclose(unpack(found).T, unpack(weight), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_go_back_the_same_way(isa: str, dtype: str) -> None:
    weight = jnp.asarray(random(0, 100, 50), dtype)
    upstream = jnp.asarray(random(1, 50, 100), dtype)
    turned = jax.jit(jax.grad(lambda w: jnp.sum(unpack(transpose(pack(w))) * upstream)))(weight)
    assert as_bytes(turned) == as_bytes(upstream.T)
    straight = jax.jit(jax.grad(lambda w: jnp.sum(unpack(pack(w)) * upstream.T)))(weight)
    assert as_bytes(straight) == as_bytes(upstream.T)


def test_through_xla_it_is_the_same(isa: str) -> None:
    weight = jnp.asarray(random(0, 100, 50))
    for value in (weight, packed("int8, groups of 32", 100, 50)):
        given = value if value is not weight else pack(weight)
        turned = [transpose(given).data, reference.transpose(given).data]
        np.testing.assert_allclose(*turned, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_forward_keeps_its_bits_when_differentiated(isa: str, dtype: str) -> None:
    x = jnp.asarray(random(0, 70, 100), dtype)
    gate, up, down = (
        pack(jnp.asarray(random(seed, *shape) / 10, dtype))
        for seed, shape in ((1, (100, 130)), (2, (100, 130)), (3, (130, 100)))
    )
    norm = (jnp.asarray(random(4, 100), dtype), 1e-5)

    def layer(x: jax.Array) -> jax.Array:
        return linear(gated_linear(x, gate, up, norm=norm), down, residual=x)

    def loss(layer):  # type: ignore[no-untyped-def]
        def apply(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            out = layer(layer(x))
            return jnp.sum(out.astype(jnp.float32)), out

        return jax.jit(jax.value_and_grad(apply, has_aux=True))

    expected = jax.jit(lambda x: layer(layer(x)))(x)
    for each in (layer, jax.checkpoint(layer)):
        (_, found), _ = loss(each)(x)
        assert as_bytes(found) == as_bytes(expected)
