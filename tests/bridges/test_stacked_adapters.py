"""Adapters of layers whose parameters are stacked in one array, as scans in Flax have them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax")

import flaxen
from flaxen.definitions.definition import Definition
from flaxen.kernels.backend import Backend
from flaxen.kernels.choice import choose_backend
from flaxen.models import attention_impls
from flaxen.models.adapters import LoraConfig, adapter_shapes, lora_targets, with_adapters
from flaxen.models.model import Model, Params
from flaxen.models.params import compute_params, is_spec
from flaxen.scheduling.config import LoraLimits
from flaxen.training.lora import initial_adapters
from flaxen.weights.adapters.adapter import Adapter, merge_into_definition
from tests.bridges.linen_model import Transformer
from tests.bridges.words import byte_tokenizer
from tests.weights.adapters.made import random_adapter

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 250, (2, 24)), jnp.int32)
POSITIONS = jnp.broadcast_to(jnp.arange(24, dtype=jnp.int32), (2, 24))
BLOCK = "['params']['ScanCheckpointBlock_0']"
ATTENTION = f"{BLOCK}['MultiHeadDotProductAttention_0']"
FLOAT32 = jnp.dtype("float32")


@pytest.fixture(scope="module")
def definition() -> tuple[Model, Params]:
    """Three layers in a scan with remat."""
    module = Transformer(dropout=0.1)
    variables = jax.jit(module.init)(jax.random.key(0), TOKENS, POSITIONS)
    return flaxen.from_linen(module, variables, max_position=128)


def test_roles_are_the_same_with_an_axis_of_layers(definition: tuple[Model, Params]) -> None:
    model, _ = definition
    roles: dict[str, str] = {}
    for path, spec in jax.tree.flatten_with_path(model.param_specs, is_leaf=is_spec)[0]:
        roles[jax.tree_util.keystr(path)] = spec.role
    assert {name for name, role in roles.items() if role == "table"} == {
        "['params']['Embed_0']['embedding']",
        "['params']['Embed_1']['embedding']",
    }
    assert {name for name, role in roles.items() if role == "matrix"} == {
        name for name in roles if name.endswith("['kernel']")
    }
    vectors = {name.rsplit("[")[-1] for name, role in roles.items() if role == "vector"}
    assert vectors == {"'bias']", "'scale']"}


def scores(model: Model, params: Params) -> np.ndarray:
    hidden, _ = model.forward(
        params, TOKENS, POSITIONS, attention_impls.causal(None, model.backend), (None,) * 3
    )
    return np.asarray(model.unembed(params, hidden))


def merged(params: Params, adapter: Adapter) -> Params:
    """Plain arrays with an adapter added, written for the very arrays of this module."""
    arrays = jax.tree.map(np.array, params)
    for target, pair in adapter.layers[0].items():
        *path, layer = [part.strip("'") for part in target[1:-1].split("][")]
        place: Any = arrays
        for name in path:
            place = place[name]
        place[int(layer)] += adapter.config.scale * (pair["a"] @ pair["b"]).reshape(place.shape[1:])
    return arrays


def test_each_layer_is_a_target(definition: tuple[Model, Params]) -> None:
    model, _ = definition
    assert lora_targets(model, "Dense_0") == tuple(
        f"{BLOCK}['Dense_0']['kernel'][{index}]" for index in range(3)
    )
    assert len(lora_targets(model)) == 3 * 6
    config = LoraConfig(rank=4, targets=lora_targets(model, "['out']['kernel'][1]", "Dense_0"))
    (shapes,) = adapter_shapes(model, config)["layers"]
    assert len(shapes) == 4
    assert shapes[f"{ATTENTION}['out']['kernel'][1]"] == {"a": (64, 4), "b": (4, 64)}
    assert shapes[f"{BLOCK}['Dense_0']['kernel'][2]"] == {"a": (64, 4), "b": (4, 256)}


@pytest.mark.parametrize("parts", [(), ("query", "Dense_1"), ("Dense_0']['kernel'][1]",)])
@pytest.mark.parametrize("backend", [Backend.REFERENCE, Backend.CPU])
def test_the_scores_are_those_of_the_merged_arrays(
    definition: tuple[Model, Params], parts: tuple[str, ...], backend: Backend
) -> None:
    if backend is Backend.CPU and choose_backend() is not Backend.CPU:
        pytest.skip("the library was not built")
    model, params = definition
    adapter = random_adapter(model, targets=lora_targets(model, *parts))
    given = compute_params(model.param_specs, params, dtype=FLOAT32, backend=backend)
    stack = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], adapter.tree)
    scales = jnp.full(1, adapter.config.scale, jnp.float32)
    first = jnp.array([[0], [-1]], jnp.int32)  # the second sequence has no adapter
    ids = jnp.broadcast_to(first, TOKENS.shape)
    found = scores(model, with_adapters(given, stack, scales, ids))
    expected = scores(model, merged(params, adapter))
    alone = scores(model, given)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=2e-5)
    assert np.abs(expected[0] - alone[0]).max() > 0.1
    np.testing.assert_allclose(found[1], alone[1], rtol=1e-4, atol=2e-5)


def test_gradients_are_those_of_the_merged_arrays(definition: tuple[Model, Params]) -> None:
    model, params = definition
    adapter = random_adapter(model, targets=lora_targets(model, "value", "Dense_1"))
    given = compute_params(model.param_specs, params, dtype=FLOAT32, backend=choose_backend())
    weights = jax.random.normal(jax.random.key(1), (*TOKENS.shape, model.vocab_size))
    one = jnp.full(1, adapter.config.scale, jnp.float32)

    def loss(params: Params) -> jax.Array:
        hidden, _ = model.forward(
            params, TOKENS, POSITIONS, attention_impls.causal(None, model.backend), (None,) * 3
        )
        return jnp.mean(model.unembed(params, hidden) * weights)

    def by_adapters(stack: Any) -> jax.Array:
        return loss(with_adapters(given, stack, one, jnp.zeros(TOKENS.shape, jnp.int32)))

    stack = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], adapter.tree)
    found = jax.grad(by_adapters)(stack)["layers"][0]
    full = jax.grad(loss)(jax.tree.map(jnp.asarray, merged(params, adapter)))["params"]
    kernel = full["ScanCheckpointBlock_0"]["Dense_1"]["kernel"]  # [L, I, O]
    for index in range(3):
        name = f"{BLOCK}['Dense_1']['kernel'][{index}]"
        expected = adapter.config.scale * adapter.layers[0][name]["a"].T @ kernel[index]
        scale = float(jnp.abs(expected).max())
        np.testing.assert_allclose(found[name]["b"][0], expected, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_an_adapter_is_merged_into_the_arrays(
    definition: tuple[Model, Params], dtype: str | None
) -> None:
    model, params = definition
    targets = lora_targets(model, "['out']['kernel'][1]", "Dense_0")
    adapter = random_adapter(model, targets=targets)
    chosen = None if dtype is None else jnp.dtype(dtype)
    found = merge_into_definition(model, params, adapter, chosen)
    expected = merged(params, adapter)
    for (path, leaf), wanted, given in zip(
        jax.tree.flatten_with_path(found)[0], *map(jax.tree.leaves, (expected, params)), strict=True
    ):
        is_adapted = any(
            target.startswith(jax.tree_util.keystr(path)) for target in adapter.config.targets
        )
        assert leaf.dtype == (dtype if is_adapted and dtype else given.dtype)
        tolerance = 2**-8 if leaf.dtype == jnp.bfloat16 else 1e-6
        np.testing.assert_allclose(leaf.astype(FLOAT32), wanted, rtol=tolerance, atol=1e-6)
        assert is_adapted == (not np.array_equal(leaf.astype(FLOAT32), given))
    loaded = flaxen.load(Definition(model=model, params=params, tokenizer="none"), adapter=adapter)[
        1
    ]
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6),
        loaded, expected,
    )  # fmt: skip


def test_several_are_served_at_once(definition: tuple[Model, Params]) -> None:
    model, params = definition
    limits = LoraLimits(max_loras=2, max_lora_rank=4)
    served = Definition(model=model, params=params, tokenizer=byte_tokenizer())
    llm = flaxen.LLM(served, lora=limits, dtype="float32", max_num_seqs=4)
    names = [None, "some", "all"]
    llm.load_adapter("some", random_adapter(model, targets=lora_targets(model, "[2]"), rank=2))
    llm.load_adapter("all", random_adapter(model, targets=lora_targets(model), seed=1))
    sampling = flaxen.SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    alone = [llm.generate("one", sampling, adapter=name)[0].outputs[0].token_ids for name in names]
    assert len({tuple(tokens) for tokens in alone}) == 3
    mixed = llm.generate(["one"] * 3, sampling, adapter=names)
    assert [output.outputs[0].token_ids for output in mixed] == alone


def test_dropout_differs_from_layer_to_layer(definition: tuple[Model, Params]) -> None:
    model, params = definition
    config = LoraConfig(rank=4, targets=lora_targets(model, "Dense_0"))
    stack = initial_adapters(model, config, [0])
    ids = jnp.zeros(TOKENS.shape, jnp.int32)
    given = with_adapters(params, stack, jnp.ones(1), ids, key=jax.random.key(0), dropout=0.5)
    beside = given["params"]["ScanCheckpointBlock_0"]["Dense_0"]["kernel"]
    keys = {tuple(np.asarray(jax.random.key_data(each.key)).tolist()) for each in beside.values()}
    assert len(keys) == 3
    assert np.isfinite(scores(model, given)).all()
