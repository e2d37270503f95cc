"""A training step on a mesh finds what one device finds, and leaves the state where it was."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

from flaxen.models.adapters import LoraConfig
from flaxen.models.model import Model
from flaxen.training.dpo import dpo
from flaxen.training.full import full
from flaxen.training.lora import initial_adapters, lora
from flaxen.training.loss import Remat, next_token
from flaxen.training.microbatches import split_batch
from flaxen.training.optimizer import OptimizerConfig, OptimizerName, make_optimizer
from flaxen.training.step import run_step, start
from tests.mesh.training import FLOAT32, PARAMS, Steps, assert_same, model_on, params_on, run_steps
from tests.training.tiny import make, random_batch, random_pairs

MESHES: dict[str, Remat] = {
    "data=2,tensor=2": "none",
    "fsdp=4": "none",
    "fsdp=2,context=2": "layer",
    "data=2,fsdp=2,tensor=2": "none",
    "context=4,tensor=2": "layer",
}
LORA = LoraConfig(rank=4, alpha=8.0, targets=("wq", "w_down"))


def full_steps(model: Model, remat: Remat = "none") -> Steps:
    """Two steps of two microbatches."""
    step = make(
        full(model, dtype=FLOAT32),
        next_token(model, remat=remat),
        weight_decay=0.1,
        eps=1e-3,  # so that the sign of a gradient of rounding errors decides nothing
    )
    batches = [random_batch(seed, num_rows=8) for seed in (0, 1)]
    return run_steps(step, params_on(model), batches, num_microbatches=2)


@functools.cache
def expected_steps() -> Steps:
    return full_steps(model_on(None))


@pytest.mark.parametrize("mesh", MESHES)
def test_a_mesh_trains_as_one_device(mesh: str) -> None:
    found = full_steps(model_on(mesh), MESHES[mesh])
    assert_same(found, expected_steps())
    assert_in_place(found, model_on(mesh))


def assert_in_place(found: Steps, model: Model) -> None:
    """The state is where the rules put it: what is divided did not become whole."""
    layout = full(model, dtype=FLOAT32).layout
    assert layout is not None
    params, opt_state = found.state.params, found.state.opt_state
    jax.tree.map(lambda leaf, place: assert_at(leaf, place), params, layout.masters)
    places = layout.of_state(opt_state, params)
    jax.tree.map(lambda leaf, place: assert_at(leaf, place), opt_state, places)


def assert_at(leaf: jax.Array, place: jax.sharding.NamedSharding) -> None:
    assert leaf.sharding.is_equivalent_to(place, leaf.ndim)


@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "sgd"])
def test_an_optimizers_state_is_laid_like_its_parameters(name: OptimizerName) -> None:
    model = model_on("fsdp=2,tensor=2")
    trainable = full(model, dtype=FLOAT32)
    assert trainable.layout is not None
    made: optax.GradientTransformation = make_optimizer(OptimizerConfig(name=name))(trainable.specs)
    opt_state = jax.eval_shape(made.init, PARAMS)
    places = trainable.layout.of_state(opt_state, PARAMS)
    matrices = 0
    for leaf, place in zip(jax.tree.leaves(opt_state), jax.tree.leaves(places), strict=True):
        if len(leaf.shape) == 2:
            matrices += 1
            assert set(place.spec) == {"fsdp", "tensor"}, leaf.shape
    assert matrices >= 8  # 7 of the layer, and the table


def pair_steps(model: Model) -> Steps:
    """A stack of two adapters with dropout learns preferences, each at a rate of its own."""
    trainable = lora(LORA, num_adapters=2, dropout=0.1, model=model)
    step = make(trainable, dpo(model), learning_rates=(1e-2, 1e-3), name="sgd")
    adapters = initial_adapters(model, LORA, [0, 1])
    if trainable.layout is not None:
        adapters = jax.device_put(adapters, trainable.layout.masters)
    pairs = [random_pairs(seed) for seed in (0, 1)]
    return run_steps(step, adapters, pairs, frozen=params_on(model))


def test_adapters_learn_pairs_as_on_one_device() -> None:
    found = pair_steps(model_on("fsdp=2,context=2,tensor=2"))
    assert_same(found, pair_steps(model_on(None)))
    layer = found.state.params["layers"][0]
    assert layer["wq"]["a"].sharding.spec[1] == "fsdp"
    assert layer["wq"]["b"].sharding.spec[2] == "tensor"


def test_what_is_computed_with_is_divided_too() -> None:
    model = model_on("fsdp=2,tensor=2")
    step = make(full(model, dtype=jnp.dtype("bfloat16")), next_token(model))
    compute = step.prepare(params_on(model))
    weight = compute["layers"][0]["wq"]
    assert weight.dtype == jnp.bfloat16
    assert tuple(weight.sharding.spec) == ("fsdp", "tensor")


@pytest.mark.parametrize(
    ("mesh", "num_rows", "length", "message"),
    [
        ("data=2,fsdp=2", 6, 48, "has 6 rows, and the mesh data=2,fsdp=2 divides them into 4"),
        ("context=5", 4, 48, "has 48 tokens, and the mesh context=5 divides them into 5"),
    ],
)
def test_a_batch_that_can_not_be_divided_is_refused(
    mesh: str, num_rows: int, length: int, message: str
) -> None:
    model = model_on(mesh)
    step = make(full(model, dtype=FLOAT32), next_token(model), name="sgd")
    state = start(step, params_on(model), seed=0)
    batch = random_batch(0, num_rows, length)
    with pytest.raises(ValueError, match=message):
        run_step(step, state, step.prepare(state.params), None, split_batch(batch, 1))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
