"""Gradients of gradients, and a Hessian times a vector, through the C++ kernels = through XLA."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels import native
from flaxen.kernels.linear import PackedLinear, unpack
from flaxen.models.adapters import LoraConfig, with_adapters
from flaxen.models.model import Params
from flaxen.train.lora import initial_adapters
from tests.engine.tiny import MODEL, PARAMS, pack_params
from tests.models.test_native_gradients import loss

pytestmark = pytest.mark.skipif(not native.is_built(), reason="the library was not built")
IDS = jnp.asarray(np.random.default_rng(0).integers(0, MODEL.vocab_size, (1, 9)), jnp.int32)
DIRECTION = jax.tree.map(
    lambda leaf: 0.1 * np.random.default_rng(leaf.size).standard_normal(leaf.shape), PARAMS
)


def norm_of_gradient(of: Callable[[Any], jax.Array], params: Any) -> jax.Array:
    squares = jax.tree.map(lambda leaf: jnp.sum(leaf**2), jax.grad(of)(params))
    return sum(jax.tree.leaves(squares), jnp.zeros(()))


def second(of: Callable[[Any], jax.Array], params: Any, direction: Any, way: str) -> Any:
    """A Hessian times the gradient, by one of the ways that JAX has; or times a direction."""
    if way == "grad of grad":
        return jax.grad(lambda params: norm_of_gradient(of, params))(params)
    if way == "jvp of grad":
        return jax.jvp(jax.grad(of), (params,), (direction,))[1]

    def along(params: Any) -> jax.Array:
        found = jax.tree.map(lambda a, b: jnp.sum(a * b), jax.grad(of)(params), direction)
        return sum(jax.tree.leaves(found), jnp.zeros(()))

    return jax.grad(along)(params)


def plain_tree(tree: Params) -> Params:
    def one(leaf: object) -> object:
        return unpack(leaf) if isinstance(leaf, PackedLinear) else leaf

    plain = jax.tree.map(one, tree, is_leaf=lambda leaf: isinstance(leaf, PackedLinear))
    return {**plain, "embed": plain["embed"].T}


@functools.cache
def exact(way: str) -> Params:
    """Through XLA in float64: float32's own rounding is as large as what is to be seen."""
    with jax.enable_x64(True):
        params, direction = (
            jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)
            for tree in (PARAMS, DIRECTION)
        )
        found = jax.jit(lambda *args: second(lambda p: loss(p, IDS), *args, way))(params, direction)
        return jax.tree.map(np.asarray, found)


def assert_close(found: Params, expected: Params) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * np.abs(other).max())


@pytest.mark.parametrize(
    ("way", "packed"),
    [("grad of grad", True), ("jvp of grad", True), ("jvp of grad", False), ("grad along", False)],
)
def test_of_all_parameters(way: str, packed: bool) -> None:
    direction = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), DIRECTION)
    params = PARAMS
    if packed:
        params, direction = pack_params(params), pack_params(direction)
    found = jax.jit(lambda *args: second(lambda p: loss(p, IDS), *args, way))(params, direction)
    assert_close(plain_tree(found) if packed else found, exact(way))


def test_of_adapters_beside_packed_weights() -> None:
    config = LoraConfig(rank=2)
    stack = initial_adapters(MODEL, config, [0])
    rng = np.random.default_rng(1)
    stack = jax.tree.map(
        lambda leaf: leaf + 0.1 * jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), stack
    )

    def hessian(params: Params) -> Any:
        def of(stack: Any) -> jax.Array:
            ids = jnp.zeros(IDS.shape, jnp.int32)
            return loss(with_adapters(params, stack, jnp.ones(1), ids), IDS)

        return jax.jit(lambda stack: second(of, stack, stack, "jvp of grad"))(stack)

    found = hessian(pack_params(PARAMS))
    native.configure(isa=native.XLA)
    try:
        expected = hessian(PARAMS)
    finally:
        native.configure(isa=native.supported_isas()[0])
    assert_close(found, expected)


def test_forward_mode_alone_is_refused_by_jax() -> None:
    """As the docstring of flaxen.load says; a third derivative in reverse is none of that."""
    with pytest.raises(TypeError, match="can't apply forward-mode"):
        jax.jvp(lambda p: loss(p, IDS), (PARAMS,), (PARAMS,))
