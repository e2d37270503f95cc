"""A model whose layers are in stages computes, serves and trains as in one piece."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels.backend import Backend
from flaxen.models.adapters import LoraConfig
from flaxen.models.decoder import decoder
from flaxen.models.layout import param_shardings
from flaxen.models.logits import logits
from flaxen.models.model import Model, Params
from flaxen.models.pipeline import num_microbatches, pipelined
from flaxen.models.staging import stage_params, unstage_params
from flaxen.protocol import Request
from flaxen.training.full import full, initial_params
from flaxen.training.lora import initial_adapters, lora
from flaxen.training.loss import next_token
from tests.engine.lora import LORA, adapted, make_adapter
from tests.engine.tiny import MODEL, MODEL_CONFIG, ONE_SHAPE, make_engine, prompts, run, trace
from tests.mesh.meshes import mesh_executor, on_mesh, placed, placement
from tests.mesh.test_serving import assert_close
from tests.mesh.training import FLOAT32, Steps, assert_same, model_on, run_steps
from tests.models.features import with_features
from tests.scheduling.groups import groups
from tests.training.tiny import copy, make, random_batch

DEEP = decoder(with_features(MODEL_CONFIG, num_layers=4, windows=(None, 24) * 2))
PARAMS = jax.tree.map(lambda leaf: leaf * (4 if leaf.ndim > 1 else 1), initial_params(DEEP, 0))
# Two layers, for what is compiled as a whole step.
SMALL = decoder(with_features(MODEL_CONFIG, num_layers=2, windows=(24, 24)))
SMALL_PARAMS = {**PARAMS, "layers": PARAMS["layers"][:2]}
TOKENS = jax.random.randint(jax.random.key(1), (8, 24), 3, DEEP.vocab_size)
MESH = "pipeline=2,tensor=2"
TRAINED = LoraConfig(rank=4, alpha=8.0, targets=("wq", "w_down"))


def loss(model: Model, params: Params) -> jax.Array:
    return jnp.mean(jax.nn.log_softmax(logits(model, params, TOKENS))[..., 0])


@pytest.fixture(scope="module")
def alone() -> tuple[jax.Array, Params]:
    return jax.jit(jax.value_and_grad(lambda params: loss(DEEP, params)))(PARAMS)


@pytest.mark.parametrize("text", ["pipeline=2", "pipeline=2,data=2,tensor=2"])
def test_stages_have_the_gradients_of_one_piece(text: str, alone: tuple[jax.Array, Params]) -> None:
    model, params = on_mesh(text, DEEP), placed(PARAMS, placement(text), DEEP)
    value, gradients = jax.jit(jax.value_and_grad(lambda params: loss(model, params)))(params)
    np.testing.assert_allclose(value, alone[0], rtol=1e-5)
    found = unstage_params(gradients, placement(text))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), found, alone[1])


def test_a_stage_has_its_own_layers_alone() -> None:
    params = placed(PARAMS, placement("pipeline=2"), DEEP)
    (first, second) = params["layers"]
    assert first["wq"].shape == (2, *PARAMS["layers"][0]["wq"].shape)
    for number, layer in enumerate(PARAMS["layers"]):
        whole = (first, second)[number % 2]["wq"]
        (part,) = (each for each in whole.addressable_shards if each.index[0].start == number // 2)
        np.testing.assert_array_equal(part.data[0], layer["wq"])
    back = unstage_params(params, placement("pipeline=2"))
    jax.tree.map(np.testing.assert_array_equal, back, PARAMS)


def requests() -> list[Request]:
    kinds = ({}, {"temperature": 0.8, "seed": 7})
    return [
        adapted(f"r{i}", p, ("one", None)[i % 2], **kinds[i // 2 % 2])
        for i, p in enumerate(prompts([1, 2, 40, 70, 5, 33]))
    ]


def test_stages_serve_what_one_piece_serves() -> None:
    """With adapters, and to the bit alone or in a batch."""
    config = replace(ONE_SHAPE, groups=groups(SMALL.cache_specs, 256), lora=LORA)
    staged = replace(config, groups=groups(on_mesh(MESH, SMALL).cache_specs, 256))
    engines = [
        make_engine(config, executor=mesh_executor("tensor=1", config, SMALL_PARAMS, SMALL)),
        make_engine(staged, executor=mesh_executor(MESH, staged, SMALL_PARAMS, SMALL)),
    ]
    for engine in engines:
        engine.adapters.load("one", make_adapter(0, model=SMALL))
    expected, found = (run(engine, requests()) for engine in engines)
    for got, other in zip(found, expected, strict=True):
        assert_close(got, other)
    for got, one in zip(found, requests(), strict=True):
        assert trace(got) == trace(run(engines[1], [one])[0])


def test_microbatches_divide_over_the_data_axes() -> None:
    assert num_microbatches(32, placement("pipeline=2")) == 8
    assert num_microbatches(8, placement("pipeline=2,data=2")) == 4
    assert num_microbatches(3, placement("pipeline=2")) == 3
    assert num_microbatches(1, placement("pipeline=2")) == 1


def test_layers_that_can_not_be_in_equal_stages_are_refused() -> None:
    with pytest.raises(ValueError, match=r"4 layers can't be divided into pipeline=3 .* 1, 2, 4$"):
        on_mesh("pipeline=3", DEEP)
    with pytest.raises(ValueError, match="in pipeline=2 stages the same layer of each stage must"):
        on_mesh("pipeline=2", MODEL)
    piece = replace(DEEP, in_layers=None)
    with pytest.raises(ValueError, match="the forward of a definition is in one piece"):
        pipelined(piece.on(Backend.REFERENCE, placement("pipeline=2")))


def full_steps(mesh: str | None) -> Steps:
    """Two steps of two microbatches that train all parameters."""
    model = model_on(mesh, SMALL)
    step = make(full(model, dtype=FLOAT32), next_token(model, remat="layer"), eps=1e-3)
    on = None if mesh is None else placement(mesh)
    params = copy(SMALL_PARAMS) if on is None else placed(copy(SMALL_PARAMS), on, SMALL)
    batches = [random_batch(seed, num_rows=8) for seed in (0, 1)]
    found = run_steps(step, params, batches, num_microbatches=2)
    if on is None:
        return found
    state = found.state._replace(params=unstage_params(found.state.params, on))
    return found._replace(state=state)


def test_stages_train_as_one_piece() -> None:
    assert_same(full_steps("pipeline=2,fsdp=2"), full_steps(None))


def adapter_steps(mesh: str | None) -> Steps:
    """A step that trains two adapters of frozen parameters."""
    model = model_on(mesh, SMALL)
    trainable = lora(TRAINED, num_adapters=2, model=model)
    step = make(trainable, next_token(model), learning_rates=(1e-2, 1e-3), name="sgd")
    adapters = initial_adapters(model, TRAINED, [0, 1])
    frozen = SMALL_PARAMS
    if trainable.layout is not None and mesh is not None:
        adapters = jax.device_put(adapters, trainable.layout.masters)
        frozen = placed(copy(SMALL_PARAMS), placement(mesh), SMALL)
    return run_steps(step, adapters, [random_batch(0, num_rows=4)], frozen=frozen)


def test_adapters_of_stages_train_as_of_one_piece() -> None:
    assert_same(adapter_steps("pipeline=2,tensor=2"), adapter_steps(None))


def test_layers_of_different_formats_are_not_joined() -> None:
    laid = jax.device_put(PARAMS, param_shardings(DEEP.param_specs, placement("pipeline=2")))
    first = {name: leaf for name, leaf in laid["layers"][0].items() if name != "wq"}
    params = {**laid, "layers": (first, *laid["layers"][1:])}
    with pytest.raises(ValueError, match=r"layers 0, 2 are at the same place .* --quantization"):
        stage_params(params, placement("pipeline=2"))
