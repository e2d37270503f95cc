"""The losses of routers: transformers' formula, their share of a loss, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.models.layers.part import Routing
from flaxen.training.config import DataConfig, TrainConfig
from flaxen.training.loss import next_token
from flaxen.training.optimizer import OptimizerConfig
from flaxen.training.router_losses import RouterLosses, router_losses
from tests.engine.tiny import MODEL as DENSE
from tests.models.tiny_experts import MODEL, random_params
from tests.training.tiny import pack_batch


def routings(num_layers: int, shape: tuple[int, int], num_experts: int, k: int) -> list[Routing]:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((num_layers, *shape, num_experts)).astype(np.float32)
    return [
        Routing(jnp.asarray(each), jax.lax.top_k(jnp.asarray(each), k)[1].astype(jnp.int32))
        for each in logits
    ]


def test_the_balance_is_transformers() -> None:
    torch: Any = pytest.importorskip("torch")
    mixtral: Any = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    given = routings(3, (2, 7), 6, 2)
    is_token = np.ones((2, 7), bool)
    is_token[1, 4:] = False
    logits = tuple(torch.tensor(np.asarray(each.logits).reshape(-1, 6)) for each in given)
    mask = torch.tensor(is_token.astype(np.int64))
    expected = mixtral.load_balancing_loss_func(logits, 6, 2, mask)
    balance, _ = router_losses(given, jnp.asarray(is_token))
    assert float(balance) == pytest.approx(float(expected), rel=1e-5)


def test_a_perfect_balance_and_the_z_loss() -> None:
    even = Routing(jnp.full((1, 4, 4), 2.0), jnp.arange(4, dtype=jnp.int32)[None, :, None])
    balance, z = router_losses([even], jnp.ones((1, 4), bool))
    assert float(balance) == pytest.approx(1)
    assert float(z) == pytest.approx((2 + np.log(4)) ** 2)


def test_they_are_added_to_the_loss_of_the_tokens() -> None:
    batch = pack_batch([[[5, 6, 7, 9, 11], [8, 3, 4]], [[1, 2, 3]]])
    params = random_params()

    def losses(router: RouterLosses) -> Any:
        found = next_token(MODEL, router=router).losses(lambda shape: params, None, batch, None)
        return np.asarray(found.rows), {name: np.asarray(each) for name, each in found.aux.items()}

    plain, aux = losses(RouterLosses())
    assert set(aux) == {"accuracy"}
    with_router, aux = losses(RouterLosses(balance=0.5, z=0.25))
    weight = np.where(batch.targets >= 0, batch.loss_weights, 0).sum(axis=1)
    balance, z = aux["router_balance"] / weight, aux["router_z"] / weight
    assert np.ptp(balance) == pytest.approx(0, abs=1e-5)
    assert 0.5 < balance[0] < 5
    np.testing.assert_allclose(with_router - plain, (0.5 * balance + 0.25 * z) * weight, rtol=1e-4)


def test_their_gradient_reaches_the_routers() -> None:
    batch = pack_batch([[[5, 6, 7, 9, 11], [8, 3, 4]]])
    objective = next_token(MODEL, router=RouterLosses(balance=1.0, z=0.1), remat="layer")

    def loss(params: Any) -> jax.Array:
        found = objective.losses(lambda shape: params, None, batch, None)
        return jnp.sum(found.aux["router_balance"] + 0.1 * found.aux["router_z"])

    params = random_params()
    compiled, gradient = jax.jit(loss), jax.jit(jax.grad(loss))(params)
    along = gradient["layers"][1]["w_router"] / jnp.linalg.norm(gradient["layers"][1]["w_router"])

    def at(distance: float) -> float:
        moved = {
            **params["layers"][1],
            "w_router": params["layers"][1]["w_router"] + distance * along,
        }
        layers = (params["layers"][0], moved, params["layers"][2])
        return float(compiled({**params, "layers": layers}))

    found = float(jnp.sum(gradient["layers"][1]["w_router"] * along))
    assert found == pytest.approx((at(1e-2) - at(-1e-2)) / 2e-2, rel=2e-2)


def test_models_that_can_not_have_them_are_refused() -> None:
    wanted = RouterLosses(balance=0.01)
    with pytest.raises(ValueError, match="equally many experts, and the model has none: set both"):
        next_token(DENSE, router=wanted)
    uneven = replace(MODEL, num_experts=(4, 8))
    with pytest.raises(ValueError, match=r"the model has \[4, 8\]"):
        next_token(uneven, router=wanted)
    with pytest.raises(ValueError, match="which pipeline stages do not return"):
        next_token(replace(MODEL, num_stages=2), router=wanted)


def test_settings_that_are_refused() -> None:
    with pytest.raises(ValueError, match="weights of router losses must be at least 0, got -1"):
        RouterLosses(balance=-1)
    with pytest.raises(ValueError, match="router_z_loss must be at least 0, got -1"):
        OptimizerConfig(router_z_loss=-1)
    with pytest.raises(ValueError, match="the method dpo has another: take them out"):
        TrainConfig(
            model="m",
            data=DataConfig(files=(Path("x"),), batch_size=1, sequence_length=8),
            method="dpo",
            optimizer=OptimizerConfig(router_balance_loss=0.1),
        )
