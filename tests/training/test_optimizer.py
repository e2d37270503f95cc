"""Each optimizer's first update, and each schedule, by hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxen.models.param_spec import Matrix, ParamSpec
from flaxen.training.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer, make_schedule

RNG = np.random.default_rng(0)
MATRIX = RNG.standard_normal((6, 4)).astype(np.float32)
PARAMS = {
    "embed": jnp.asarray(MATRIX * 2),
    "layers": ({"wq": jnp.asarray(MATRIX), "attn_norm": jnp.ones(6)},),
}
WEIGHT = Matrix(inputs=(0,), outputs=(1,))
SPECS = {
    "embed": ParamSpec(shape=(6, 4), axes=(None, None), role="table", matrix=WEIGHT),
    "layers": (
        {
            "wq": ParamSpec(shape=(6, 4), axes=(None, None), role="matrix", matrix=WEIGHT),
            "attn_norm": ParamSpec(shape=(6,), axes=(None,), role="vector"),
        },
    ),
}
GRADIENTS = jax.tree.map(
    lambda leaf: jnp.asarray(RNG.standard_normal(leaf.shape), jnp.float32), PARAMS
)
DECAY = 0.1


def adamw(gradient: np.ndarray, param: np.ndarray, decay: float) -> np.ndarray:
    return -gradient / (np.abs(gradient) + 1e-8) - decay * param  # bias correction undoes the betas


def lion(gradient: np.ndarray, param: np.ndarray, decay: float) -> np.ndarray:
    return -np.sign(gradient) - decay * param


def sgd(gradient: np.ndarray, param: np.ndarray, decay: float) -> np.ndarray:
    return -gradient - decay * param


EXPECTED = {"adamw": adamw, "lion": lion, "sgd": sgd, "muon": adamw}


def first_update(name: Any, **options: Any) -> Any:
    optimizer = make_optimizer(OptimizerConfig(name=name, **options))(lambda params: SPECS)
    return optimizer.update(GRADIENTS, optimizer.init(PARAMS), PARAMS)[0]


@pytest.mark.parametrize("name", EXPECTED)
def test_first_updates(name: str) -> None:
    found = first_update(name, weight_decay=DECAY, max_grad_norm=None)
    for place in (
        lambda tree: tree["embed"],
        lambda tree: tree["layers"][0]["wq"],
        lambda tree: tree["layers"][0]["attn_norm"],
    ):
        gradient, param = np.asarray(place(GRADIENTS)), np.asarray(place(PARAMS))
        decay = DECAY if param.ndim == 2 else 0.0  # never of norms
        if name == "muon" and place(PARAMS) is PARAMS["layers"][0]["wq"]:
            continue  # see below
        expected = EXPECTED[name](gradient, param, decay)
        np.testing.assert_allclose(place(found), expected, rtol=1e-4, atol=1e-5)


def test_muon_makes_a_layers_matrices_nearly_orthogonal() -> None:
    update = first_update("muon", max_grad_norm=None)["layers"][0]["wq"]
    singular = np.linalg.svd(np.asarray(update), compute_uv=False) / (0.2 * np.sqrt(6))
    assert ((singular > 0.6) & (singular < 1.3)).all()
    decayed = first_update("muon", max_grad_norm=None, weight_decay=DECAY)["layers"][0]["wq"]
    np.testing.assert_allclose(decayed, update - DECAY * MATRIX, rtol=1e-5, atol=1e-6)


def test_gradients_are_clipped_together() -> None:
    found = first_update("sgd", max_grad_norm=0.5)
    assert float(optax.tree.norm(found)) == pytest.approx(0.5, rel=1e-5)
    ratios = jax.tree.map(lambda a, b: float((a / b).mean()), found, GRADIENTS)
    assert np.ptp(jax.tree.leaves(ratios)) < 1e-6


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ScheduleConfig(name="constant"), [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        (ScheduleConfig(name="linear"), [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
        (
            ScheduleConfig(name="linear", warmup_steps=4, final_share=0.4),
            [0.2, 0.4, 0.6, 0.8, 1, 0.9, 0.8, 0.7, 0.6, 0.5],
        ),
        (
            ScheduleConfig(name="cosine"),
            [(1 + np.cos(np.pi * step / 10)) / 2 for step in range(10)],
        ),
        (
            ScheduleConfig(name="wsd", warmup_steps=1, decay_steps=4),
            [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25],
        ),
        (ScheduleConfig(name="wsd", final_share=0.5), [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_schedules(config: ScheduleConfig, expected: list[float]) -> None:
    schedule = make_schedule(config, 10)
    found = [float(schedule(jnp.asarray(step))) for step in range(10)]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert float(schedule(jnp.asarray(10))) == pytest.approx(
        1.0 if config.name == "constant" else config.final_share, abs=1e-6
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimizerConfig(name="adam"), "there is no optimizer 'adam': use one of adamw"),
        (lambda: OptimizerConfig(learning_rate=0.0), "learning_rate must be above 0, got 0.0"),
        (lambda: OptimizerConfig(weight_decay=-1.0), "weight_decay must be at least 0, got -1.0"),
        (lambda: OptimizerConfig(max_grad_norm=0.0), "max_grad_norm must be above 0, got 0.0"),
        (lambda: OptimizerConfig(beta2=1.0), "beta2 must be from 0 to below 1, got 1.0"),
        (lambda: OptimizerConfig(eps=0.0), "eps must be above 0, got 0.0"),
        (lambda: ScheduleConfig(name="step"), "there is no schedule 'step': use one of constant"),
        (lambda: ScheduleConfig(warmup_steps=-1), "warmup_steps must be at least 0, got -1"),
        (lambda: ScheduleConfig(name="wsd", decay_steps=0), "decay_steps must be at least 1"),
        (lambda: ScheduleConfig(decay_steps=3), "decay_steps belongs to the schedule wsd"),
        (lambda: ScheduleConfig(final_share=2.0), "final_share must be from 0 to 1, got 2.0"),
        (
            lambda: make_schedule(ScheduleConfig(warmup_steps=10), 10),
            "10 steps can't hold 10 of warm-up and 1 after it",
        ),
    ],
)
def test_bad_values_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
