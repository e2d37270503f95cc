"""A decoder with experts: form of its parameters, routing, gradients, and what is refused."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.expert_kernels.routing import RoutingSpec
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.kernels.linear.packed import PackedLinear
from flaxen.models import attention_impls
from flaxen.models.expert_load import by_layer, expert_load
from flaxen.models.layers.experts import Experts
from flaxen.models.layers.part import Routing
from tests.models.golden import logits_of
from tests.models.plain import plain_params
from tests.models.tiny_experts import MODEL, params_for, random_params

TOKENS = np.random.default_rng(0).integers(0, 61, 19).astype(np.int32)
needs_library = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")


@needs_library
def test_stacks_are_packed_and_routers_stay_float32() -> None:
    params = params_for(Backend.CPU, "bfloat16")
    layer = params["layers"][1]
    assert isinstance(layer["w_experts_up"], PackedLinear)
    assert layer["w_experts_up"].shape == (5, 24, 20)
    assert layer["w_experts_up"].format == "bfloat16"
    assert layer["w_router"].format == "float32"
    assert params["layers"][2]["b_router_selection"].dtype == jnp.float32
    assert params["layers"][2]["b_experts_up"].dtype == jnp.bfloat16
    plain = plain_params(MODEL.param_specs, params_for(Backend.CPU))
    jax.tree.map(np.testing.assert_array_equal, plain, random_params())


@needs_library
def test_the_cpus_forward_is_the_references() -> None:
    expected = logits_of(MODEL, params_for(Backend.REFERENCE), TOKENS)
    found = logits_of(MODEL.on(Backend.CPU), params_for(Backend.CPU), TOKENS)
    assert expected.std() > 0.5
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_the_routing_counts_every_token_but_padding() -> None:
    tokens = jnp.asarray([*TOKENS, -1, -1])[None]
    positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    attend = attention_impls.causal(None, MODEL.backend)
    args = (params_for(MODEL.backend), tokens, positions, attend, (None,) * 3)
    hidden, _, routings = MODEL.routed_forward(*args)
    np.testing.assert_array_equal(hidden, MODEL.forward(*args)[0])
    assert [each.ids.shape[-1] for each in routings] == [2, 3]
    load = by_layer(MODEL, np.asarray(expert_load(MODEL, routings, tokens >= 0)))
    assert [sum(layer) for layer in load] == [19 * 2, 19 * 3]
    ids = np.asarray(routings[0].ids)[0, :19]
    assert load[0] == tuple(np.bincount(ids.reshape(-1), minlength=5))


def test_the_load_is_one_array() -> None:
    routings = [Routing(jnp.zeros((1, 5)), jnp.asarray([[0, 4]])),
                Routing(jnp.zeros((1, 5)), jnp.asarray([[1, 2, 0]]))]  # fmt: skip
    load = expert_load(MODEL, routings, jnp.asarray([True]))
    assert load.tolist() == [1, 0, 0, 0, 1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("backend", [Backend.REFERENCE, Backend.CPU])
def test_gradients_equal_finite_differences(backend: Backend) -> None:
    if backend is Backend.CPU and not cpu_library.is_built():
        pytest.skip("the library was not built")
    from flaxen.models.params import compute_params

    model = MODEL.on(backend)
    specs, params = MODEL.param_specs, random_params()
    weights = jnp.asarray(np.random.default_rng(1).standard_normal((19, 61)).astype(np.float32))
    positions = jnp.arange(19, dtype=jnp.int32)[None]

    def loss(params: Any) -> jax.Array:
        own = compute_params(specs, params, dtype=jnp.dtype("float32"), backend=backend)
        attend = attention_impls.causal(None, backend)
        hidden, _ = model.forward(own, jnp.asarray(TOKENS)[None], positions, attend, (None,) * 3)
        return jnp.sum(model.unembed(own, hidden[0]) * weights)

    compiled = jax.jit(loss)
    gradient = jax.jit(jax.grad(loss))(params)
    rng = np.random.default_rng(2)
    for name in ("w_router", "w_experts_gate", "w_experts_down", "b_experts_up", "w_shared_up",
                 "w_shared_router", "b_router"):  # fmt: skip
        layer = params["layers"][2]
        direction = jnp.asarray(rng.standard_normal(layer[name].shape).astype(np.float32))
        direction = direction / jnp.linalg.norm(direction)

        def at(distance: float, name: str = name, along: jax.Array = direction) -> float:
            moved = {**params["layers"][2], name: params["layers"][2][name] + distance * along}
            return float(compiled({**params, "layers": (*params["layers"][:2], moved)}))

        found = float(jnp.sum(gradient["layers"][2][name] * direction))
        slopes = [(at(step) - at(-step)) / (2 * step) for step in (1e-2, 3e-3)]
        # Other experts may be chosen on the way, of which the shorter one has fewer.
        close = [slope == pytest.approx(found, rel=3e-2, abs=3e-2) for slope in slopes]
        assert any(close), (name, found, slopes)
    assert not jnp.any(gradient["layers"][2]["b_router_selection"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_experts": 0}, "num_experts must be above 0, got 0"),
        ({"mlp_dim": 0}, "mlp_dim must be above 0, got 0"),
        ({"shared_gate": True}, "a gate of shared experts needs shared experts"),
        ({"routing": RoutingSpec(k=9)}, "can't use 9 of 4 experts"),
    ],
)
def test_experts_that_are_refused(fields: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"num_experts": 4, "mlp_dim": 8, "routing": RoutingSpec(k=2)}
    with pytest.raises(ValueError, match=message):
        Experts(**{**given, **fields})
