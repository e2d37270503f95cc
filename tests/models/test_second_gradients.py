"""Gradients of gradients, and a Hessian times a vector, through the C++ kernels = through XLA."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxen
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.kernels.linear import PackedLinear, unpack
from flaxen.models.adapters import LoraConfig, with_adapters
from flaxen.models.model import Params
from flaxen.training.lora import initial_adapters
from flaxen.training.loss import token_logprobs
from tests.engine.tiny import MODEL, PARAMS, pack_params
from tests.models.test_cpu_gradients import loss
from tests.training.tiny import pack_batch

pytestmark = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")
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
        found = jax.jit(
            lambda *args: second(lambda p: loss(Backend.REFERENCE, p, IDS), *args, way)
        )(params, direction)
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
    ours = functools.partial(loss, Backend.CPU)
    found = jax.jit(lambda *args: second(lambda p: ours(p, IDS), *args, way))(params, direction)
    assert_close(plain_tree(found) if packed else found, exact(way))


def test_of_adapters_beside_packed_weights() -> None:
    config = LoraConfig(rank=2)
    stack = initial_adapters(MODEL, config, [0])
    rng = np.random.default_rng(1)
    stack = jax.tree.map(
        lambda leaf: leaf + 0.1 * jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), stack
    )

    def hessian(params: Params, backend: Backend) -> Any:
        def of(stack: Any) -> jax.Array:
            ids = jnp.zeros(IDS.shape, jnp.int32)
            return loss(backend, with_adapters(params, stack, jnp.ones(1), ids), IDS)

        return jax.jit(lambda stack: second(of, stack, stack, "jvp of grad"))(stack)

    found = hessian(pack_params(PARAMS), Backend.CPU)
    expected = hessian(PARAMS, Backend.REFERENCE)
    assert_close(found, expected)


def test_forward_mode_alone_is_refused_by_jax() -> None:
    """The docstring of flaxen.load names this limit."""
    with pytest.raises(TypeError, match="can't apply forward-mode"):
        jax.jvp(lambda p: loss(Backend.CPU, p, IDS), (PARAMS,), (PARAMS,))
    jax.jvp(lambda p: loss(Backend.REFERENCE, p, IDS), (PARAMS,), (PARAMS,))


def test_of_a_definition_by_the_trainers_loss() -> None:
    """Against the same in plain jnp, whose attention is written out."""
    rng = np.random.default_rng(0)
    shapes = {"embed": (24, 8), "out": (8, 8), "head": (8, 24)}
    params = {
        name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()
    }

    def logits(attend: Callable[..., jax.Array], params: Any, tokens: jax.Array) -> jax.Array:
        heads = params["embed"][tokens][..., None, :]
        x = attend(heads, heads, heads)[..., 0, :]
        return (params["embed"][tokens] + x @ params["out"]) @ params["head"]

    def plain_attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        scores = jnp.einsum("BTNH,BSNH->BNTS", q, k) * 8**-0.5
        visible = jnp.tril(jnp.ones(scores.shape[-2:], bool))[None, None]
        weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf))
        return jnp.einsum("BNTS,BSNH->BTNH", weights, v)

    model = flaxen.from_function(
        lambda params, tokens, positions: logits(flaxen.attend, params, tokens),
        params,
        max_position=32,
    )
    batch = pack_batch([[list(range(9))]], 9)  # the last has no target

    def ours(params: Any) -> jax.Array:
        return -token_logprobs(model, params, batch).sum()

    def plain(params: Any) -> jax.Array:
        found = jax.nn.log_softmax(logits(plain_attend, params, jnp.asarray(batch.tokens)))
        chosen = jnp.take_along_axis(found, jnp.asarray(batch.targets)[..., None], axis=-1)
        return -chosen[:, :-1].sum()

    np.testing.assert_allclose(ours(params), plain(params), rtol=1e-5)
    for way in ("grad of grad", "jvp of grad"):
        found, expected = (
            jax.jit(lambda p, of=of, way=way: second(of, p, p, way))(params) for of in (ours, plain)
        )
        assert_close(found, expected)
