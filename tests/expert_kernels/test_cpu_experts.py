"""The C++ experts = the reference, in every format; a token's bits are its own; gradients."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.expert_kernels.experts import ExpertsSpec, experts
from flaxen.expert_kernels.experts.cpu import grouped_linear
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.kernels.linear import pack, unpack
from flaxen.kernels.linear.packed import PackedLinear
from tests.expert_kernels.expert_layers import GATES, choices, plain_layers, random
from tests.kernels.on_cpu import linear
from tests.kernels.pairwise import ISAS, THREADS, pairwise
from tests.kernels.test_cpu_linear import DTYPES, KINDS, as_bytes, packed

pytestmark = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")

E, D, F, K = 5, 100, 50, 2  # no multiples of a tile's sizes
Stacks = tuple[PackedLinear, PackedLinear, PackedLinear]


def stack(kind: str, num_inputs: int, num_outputs: int, seed: int) -> PackedLinear:
    """A random stack, packed like one weight of so many experts' whole tiles."""
    each = [packed(kind, num_inputs, num_outputs, seed * 100 + e) for e in range(E)]
    leaves = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *each)
    whole: PackedLinear = dataclasses.replace(leaves, num_experts=E)
    return whole


def stacks(kind: str) -> Stacks:
    return stack(kind, D, F, 1), stack(kind, D, F, 2), stack(kind, F, D, 3)


def run(x: jax.Array, ids: jax.Array, weights: jax.Array, layers: Stacks, **options: object):  # type: ignore[no-untyped-def]
    return experts(x, ids, weights, layers, backend=Backend.CPU, **options)  # type: ignore[arg-type]


def test_a_stack_is_unpacked_as_it_was_packed() -> None:
    for dtype in DTYPES:
        plain = random(1, 3, 40, 20, dtype=dtype)
        for backend in (Backend.CPU, Backend.REFERENCE):
            found = pack(plain, backend=backend)
            assert found.shape == (3, 40, 20)
            assert as_bytes(unpack(found)) == as_bytes(plain)
        one = pack(plain[1], backend=Backend.CPU)
        assert as_bytes(found.data[2:4]) == as_bytes(one.data)


@pairwise({"isa": ISAS, "num_threads": THREADS, "kind": KINDS, "dtype": DTYPES, "gate": GATES,
           "scales_inputs": [False, True]})  # fmt: skip
def test_equals_the_reference(
    isa: str, num_threads: int, kind: str, dtype: str, gate: str, scales_inputs: bool
) -> None:
    layers = stacks(kind)
    biases = plain_layers(E, D, F, dtype, has_biases=True).biases
    spec = ExpertsSpec(gate=GATES[gate], scales_inputs=scales_inputs)
    x, ids, weights = choices(23, D, E, K, dtype)
    x = (x * 0.1).at[-2:].set(0)
    residual = random(9, 23, D, dtype=dtype)
    options = {"biases": biases, "spec": spec, "residual": residual, "out_dtype": jnp.float32}
    found = run(x, ids, weights, layers, **options)
    # The products of the reference, of values as the kernel has them.
    plain = tuple(unpack(each).astype(jnp.float32) for each in layers)
    expected = experts(
        x,
        ids,
        weights,
        plain,
        backend=Backend.REFERENCE,
        **options,  # type: ignore[arg-type]
    )
    size = float(jnp.abs(expected).max())
    # With bfloat16 a hidden value may round the other way.
    assert jnp.abs(found - expected).max() < size * (1e-5 if dtype == "float32" else 4e-3)
    assert as_bytes(found[-2:]) == as_bytes(residual[-2:].astype(jnp.float32))


@pairwise({"isa": ISAS, "num_threads": THREADS, "kind": KINDS, "dtype": DTYPES})
def test_a_tokens_bits_are_its_own(isa: str, num_threads: int, kind: str, dtype: str) -> None:
    layers = stacks(kind)
    x, ids, weights = choices(29, D, E, K, dtype)
    together = run(x, ids, weights, layers)
    for rows in ([4], [28, 3, 7], list(range(13, 29))):
        at = jnp.asarray(rows)
        assert as_bytes(run(x[at], ids[at], weights[at], layers)) == as_bytes(together[at])


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8, groups of 32"])
def test_a_product_is_that_of_linear(kind: str) -> None:
    """The experts' products have the bits of `linear` with one expert's weight."""
    dtype = "float32" if kind == "float32" else "bfloat16"
    weight = stack(kind, D, F, 1)
    rows = random(1, 11, D, dtype=dtype)
    starts = jnp.asarray([0, 3, 3, 8, 10, 10], jnp.int32)
    found = grouped_linear(rows, weight, starts)
    for e in range(E):
        first, last = int(starts[e]), int(starts[e + 1])
        one = packed(kind, D, F, 100 + e)
        if last > first:
            expected = linear(rows[first:last], one, out_dtype=jnp.float32)
            assert as_bytes(found[first:last]) == as_bytes(expected)
    assert not jnp.any(found[10:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_equal_the_references(dtype: str) -> None:
    plain = plain_layers(E, D, F, dtype, has_biases=True)
    x, ids, weights = choices(31, D, E, K, dtype)
    x = x.at[-1].set(0)
    residual, direction = random(9, 31, D, dtype=dtype), random(8, 31, D)
    spec = ExpertsSpec(gate=GATES["clamped"])

    def gradients(backend: Backend) -> object:
        def loss(x, weights, layers, biases, residual):  # type: ignore[no-untyped-def]
            if backend is Backend.CPU:
                layers = tuple(pack(each, backend=backend) for each in layers)
            out = experts(x, ids, weights, layers, biases, spec=spec, residual=residual,
                          out_dtype=jnp.float32, backend=backend)  # fmt: skip
            return jnp.sum(out * direction)

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3, 4)))(x, weights, *plain, residual)

    found, expected = (
        jax.tree.leaves(gradients(each)) for each in (Backend.CPU, Backend.REFERENCE)
    )
    for one, other in zip(found, expected, strict=True):
        wide = np.asarray(other, np.float32)
        off = np.abs(np.asarray(one, np.float32) - wide).max()
        assert off <= np.abs(wide).max() * (1e-5 if dtype == "float32" else 1.5e-2)
    assert not jnp.any(found[2][-1])  # of the expert that nobody chose


def test_a_quantized_stack_has_the_gradient_of_its_values() -> None:
    layers = stacks("int4, groups of 32, minima")
    x, ids, weights = choices(9, D, E, K)

    def loss(x: jax.Array, layers: Stacks | tuple[jax.Array, ...], backend: Backend) -> jax.Array:
        return jnp.sum(experts(x, ids, weights, layers, backend=backend) ** 2)  # type: ignore[arg-type]

    found = jax.grad(loss)(x, layers, Backend.CPU)
    plain = tuple(unpack(each) for each in layers)
    expected = jax.grad(loss)(x, plain, Backend.REFERENCE)
    np.testing.assert_allclose(found, expected, atol=float(jnp.abs(expected).max()) * 1e-5)


def test_a_second_derivative_is_the_references() -> None:
    plain = plain_layers(E, 8, 16, "float32").stacks
    x, ids, weights = choices(3, 8, E, K)

    def hessian_product(backend: Backend) -> jax.Array:
        layers = plain
        if backend is Backend.CPU:
            layers = tuple(pack(each, backend=backend) for each in plain)  # type: ignore[assignment]

        def loss(x: jax.Array) -> jax.Array:
            return jnp.sum(experts(x, ids, weights, layers, backend=backend) ** 2)

        found: jax.Array = jax.jvp(jax.grad(loss), (x,), (x,))[1]
        return found

    expected = hessian_product(Backend.REFERENCE)
    np.testing.assert_allclose(hessian_product(Backend.CPU), expected, rtol=1e-4, atol=1e-4)
