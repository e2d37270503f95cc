"""What a parameter is used for is seen from the trace, whatever its shape, name and tree.

All sizes are equal where they can be, so that no shape tells parameters apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxen
from flaxen.bridges.function import from_apply
from flaxen.models.adapters import lora_targets
from flaxen.models.model import Model, Params
from flaxen.models.params import is_spec
from flaxen.training.full import full
from flaxen.training.metrics import flops_per_token
from flaxen.training.optimizer import OptimizerConfig, make_optimizer

D = F = V = 16
FLOAT32 = jnp.dtype("float32")
H, HEAD_DIM, LAYERS, LENGTH = 2, 8, 3, 32
RNG = np.random.default_rng(0)
VECTORS = {"norm", "bq", "gate", "wide_norm"}
MATRICES = {"wq", "wk", "wv", "wo", "up", "down"}


@pytest.fixture(autouse=True)
def broadcasting() -> Iterator[None]:
    """Definitions of other people add arrays of different ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield


def random(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


def layer() -> dict[str, jax.Array]:
    return {
        "wq": random(D, H, HEAD_DIM),
        "wk": random(D, H, HEAD_DIM),
        "wv": random(D, H, HEAD_DIM),
        "wo": random(H, HEAD_DIM, D),
        "up": random(D, F),
        "down": random(F, D),
        "norm": random(D),
        "bq": random(H, HEAD_DIM),
        "wide_norm": random(1, D),
        "gate": random(1, 1),
    }


def block(p: Mapping[str, Any], x: jax.Array) -> jax.Array:
    h = x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5) * p["norm"]
    q = jnp.einsum("btd,dhk->bthk", h, p["wq"]) + p["bq"]
    k, v = (jnp.einsum("btd,dhk->bthk", h, p[name]) for name in ("wk", "wv"))
    x = x + p["gate"] * jnp.einsum("bthk,hkd->btd", flaxen.attend(q, k, v), p["wo"])
    return x + jax.nn.gelu((x * p["wide_norm"]) @ p["up"]) @ p["down"]


def in_list(layers: Any, x: jax.Array) -> jax.Array:
    for each in layers:
        x = block(each, x)
    return x


def in_loop(layers: Any, x: jax.Array) -> jax.Array:
    for index in range(LAYERS):
        x = block({name: stack[index] for name, stack in layers.items()}, x)
    return x


def in_scan(layers: Any, x: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda x, p: (jax.checkpoint(block)(p, x), None), x, layers)[0]


LIST = [layer() for _ in range(LAYERS)]
STACK = {name: jnp.stack([each[name] for each in LIST]) for name in LIST[0]}
TREES: dict[str, tuple[Callable[[Any, jax.Array], jax.Array], Any]] = {
    "list": (in_list, LIST),
    "tuple": (in_list, tuple(LIST)),
    "dict": (lambda layers, x: in_list(layers.values(), x), dict(enumerate(LIST))),
    "loop": (in_loop, STACK),
    "scan": (in_scan, STACK),
}
TABLES = {"embed": random(V, D), "positions": random(LENGTH, D)}
HEAD = {"head": random(D, V), "head_bias": random(V)}


def make_model(tree: str, *, is_tied: bool = False) -> tuple[Model, Params]:
    run, layers = TREES[tree]
    params = {**TABLES, "layers": layers, **({} if is_tied else HEAD)}

    def apply(params: Params, tokens: jax.Array, positions: jax.Array, key: Any) -> jax.Array:
        x = params["embed"][tokens] + params["positions"][positions]
        x = run(params["layers"], x)
        if is_tied:
            return x @ params["embed"].T
        logits = x @ params["head"] + params["head_bias"]
        return 30 * jnp.tanh(logits.astype(jnp.float32) / 30)

    return from_apply(apply, params, max_position=LENGTH), params


def roles_by_name(model: Model) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path, spec in jax.tree.flatten_with_path(model.param_specs, is_leaf=is_spec)[0]:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        found.setdefault(name, set()).add(spec.role)
    return found


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("tree", TREES)
def test_roles_of_a_function(tree: str, is_tied: bool) -> None:
    model, _ = make_model(tree, is_tied=is_tied)
    expected = {name: {"vector"} for name in VECTORS} | {name: {"matrix"} for name in MATRICES}
    expected |= {"embed": {"table"}, "positions": {"table"}}
    if not is_tied:
        expected |= {"head": {"table"}, "head_bias": {"vector"}}
    assert roles_by_name(model) == expected
    assert not model.has_layers
    # No matrix is left out, though each has a size like the vocabulary's.
    assert len(lora_targets(model)) == LAYERS * len(MATRICES)


@pytest.mark.parametrize("tree", ["list", "scan"])
def test_what_is_multiplied_is_counted(tree: str) -> None:
    model, _ = make_model(tree)
    expected = LAYERS * len(MATRICES) * D * D + D * V
    assert flops_per_token(model, full(model, dtype=FLOAT32)) == 6 * expected


def moe(p: Params, tokens: jax.Array, positions: jax.Array, key: Any) -> jax.Array:
    x = jax.nn.one_hot(tokens, V) @ p["embed"]
    q = (x @ (p["v"] / jnp.linalg.norm(p["v"], axis=0) * p["g"])).reshape(*x.shape[:2], H, -1)
    x = x + flaxen.attend(q, q, q).reshape(x.shape) @ (p["w"] + p["a"] @ p["b"])
    h = jnp.einsum("btd,edf->betf", x, p["up"])
    h = jnp.einsum("betf,efd->betd", h, p["down"])
    best = jnp.argmax(x @ p["router"], axis=-1)
    x = x + h.sum(1) + jnp.einsum("btd,btde->bte", x, p["chosen"][best])
    logits: jax.Array = x @ p["head"].T
    return logits


def test_roles_of_experts_factors_and_normed_weights() -> None:
    params = {
        "embed": random(V, D),
        "v": random(D, D),
        "g": random(1, D),
        "w": random(D, D),
        "a": random(D, 4),
        "b": random(4, D),
        "up": random(4, D, F),
        "down": random(4, F, D),
        "router": random(D, 4),
        "chosen": random(4, D, D),
        "head": random(V, D),
        "unused": random(D, D),
    }
    model = from_apply(moe, params, max_position=LENGTH)
    roles = {name: spec.role for name, spec in model.param_specs.items()}
    assert roles == {
        "embed": "table",
        "v": "matrix",
        "g": "vector",
        "w": "matrix",
        "a": "matrix",
        "b": "matrix",
        "up": "matrix",
        "down": "experts",
        "router": "matrix",
        "chosen": "experts",
        "head": "table",
        "unused": "vector",
    }


def updates(tree: str, **options: Any) -> Any:
    """The first update of each layer, with gradients that are the same for each tree."""
    model, params = make_model(tree)
    trainable = full(model, dtype=FLOAT32)
    optimizer = make_optimizer(OptimizerConfig(max_grad_norm=None, **options))(trainable.specs)
    gradients = jax.tree.map(lambda leaf: jnp.sin(100 * leaf), params)
    return optimizer.update(gradients, optimizer.init(params), params)[0]


@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "sgd"])
def test_what_decays(name: Any) -> None:
    _, params = make_model("list")
    plain, decayed = (updates("list", name=name, weight_decay=decay) for decay in (0.0, 0.5))
    share = jax.tree.map(
        lambda p, one, other: float(jnp.mean((one - other) / p)), params, plain, decayed
    )
    for found in share["layers"]:
        for each in VECTORS:
            assert found[each] == 0
        for each in MATRICES:
            assert found[each] == pytest.approx(0.5, abs=1e-3)
    for each in ("embed", "positions", "head"):
        assert share[each] == pytest.approx(0.5, abs=1e-3)
    assert share["head_bias"] == 0


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("tree", [tree for tree in TREES if tree != "list"])
def test_an_update_is_the_same_in_any_tree(tree: str, name: Any) -> None:
    one, other = (updates(each, name=name, weight_decay=0.1) for each in ("list", tree))
    layers = other["layers"]
    if isinstance(layers, dict) and len(layers) > LAYERS:
        layers = [{name: stack[index] for name, stack in layers.items()} for index in range(LAYERS)]
    other["layers"] = list(layers.values() if isinstance(layers, dict) else layers)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, other)


def test_muon_makes_matrices_nearly_orthogonal_and_nothing_else() -> None:
    found, adamw = updates("scan", name="muon"), updates("scan", name="adamw")
    for name in MATRICES:
        for each in found["layers"][name]:
            singular = np.linalg.svd(np.asarray(each).reshape(D, D), compute_uv=False)
            singular /= 0.2 * np.sqrt(D)
            assert singular.max() < 1.3, name
            assert np.median(singular) > 0.6, name  # some gradients are nearly of a lower rank
    for name in VECTORS:
        np.testing.assert_array_equal(found["layers"][name], adamw["layers"][name])
    for name in ("embed", "positions", "head", "head_bias"):
        np.testing.assert_array_equal(found[name], adamw[name])
