"""Definitions on a mesh, divided by their own metadata or by rules, give what one device does."""

from __future__ import annotations

import functools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import flaxen
from flaxen.bridges.sharding import metadata_axes, param_names
from flaxen.engine.core import Engine
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.kernels.backend import Backend
from flaxen.models.layout import param_shardings
from flaxen.models.logits import logits
from flaxen.models.param_spec import ParamSpec
from flaxen.outputs import RequestOutput
from flaxen.sharding.placement import Placement
from flaxen.training.full import full
from flaxen.training.loss import next_token
from tests.bridges.training import counting_batches
from tests.engine.fakes import spelled
from tests.engine.tiny import EOS_ID, ONE_SHAPE, make_engine, request, run, trace
from tests.extras import extra
from tests.mesh.definitions import NAMES, definition
from tests.mesh.meshes import placement
from tests.mesh.training import FLOAT32, Steps, assert_same, model_on, run_steps
from tests.scheduling.groups import groups
from tests.training.tiny import copy, make


def engine(name: str, on: Placement | None) -> Engine:
    found = definition(name)
    model = found.model.on(Backend.REFERENCE, on)
    config = replace(
        ONE_SHAPE,
        groups=groups(model.cache_specs, 64),
        max_num_seqs=4,
        max_num_batched_tokens=16,
        compile_sizes=(16,),
    )
    executor = JaxExecutor(
        model,
        found.load_params(jnp.dtype("float32"), placement=on),
        config,
        eos_ids=(EOS_ID,),
        cache_dtype=jnp.dtype("float32"),
        bad_word_ids=spelled,
    )
    return make_engine(config, executor=executor)


def answers(name: str, on: Placement | None) -> list[RequestOutput]:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 250, length).tolist() for length in (1, 17, 40, 5)]
    return run(engine(name, on), [request(f"r{i}", each) for i, each in enumerate(prompts)])


@functools.cache
def expected(name: str) -> tuple[list[RequestOutput], np.ndarray]:
    """What one device answers, and its logits."""
    found = definition(name)
    model = found.model.on(Backend.REFERENCE)
    return answers(name, None), np.asarray(
        jax.jit(functools.partial(logits, model))(found.params, TOKENS)
    )


TOKENS = jnp.asarray(np.random.default_rng(1).integers(3, 250, (4, 24)), jnp.int32)


@pytest.mark.parametrize("name", NAMES)
def test_a_definition_on_a_mesh_gives_what_one_device_does(name: str) -> None:
    texts, scores = expected(name)
    found, on = definition(name), placement("tensor=2,fsdp=2")
    params = found.load_params(jnp.dtype("float32"), placement=on)
    divided = jax.jit(functools.partial(logits, found.model.on(Backend.REFERENCE, on)))
    np.testing.assert_allclose(divided(params, TOKENS), scores, atol=1e-5 * np.abs(scores).max())
    for got, one in zip(answers(name, placement("tensor=2")), texts, strict=True):
        for ours, theirs in zip(trace(got), trace(one), strict=True):
            assert ours[0] == theirs[0]
            assert ours[1] == pytest.approx(theirs[1], abs=1e-5)


def one_step(name: str, mesh: str | None) -> Steps:
    """One training step of all parameters."""
    found = definition(name)
    model = model_on(mesh, found.model)
    params = found.load_params(FLOAT32, placement=model.placement)
    collection = model.trained
    masters = params if collection is None else params[collection]
    rest = None if collection is None else {k: v for k, v in params.items() if k != collection}
    # With so large an eps, the sign of a gradient of rounding errors decides nothing.
    step = make(full(model, dtype=FLOAT32), next_token(model), eps=1e-3)
    return run_steps(step, copy(masters), counting_batches(1), collections=rest)


# Linen and PyTorch: test_training_definitions.py.
@pytest.mark.parametrize("name", ["nnx", "jax"])
def test_a_definition_trains_on_a_mesh_as_on_one_device(name: str) -> None:
    found = one_step(name, "data=2,fsdp=2,tensor=2")
    assert_same(found, one_step(name, None))
    divided = [
        leaf for leaf in jax.tree.leaves(found.state) if not leaf.sharding.is_fully_replicated
    ]
    assert len(divided) > 6  # parameters, and the moments of the optimizer


@pytest.mark.parametrize("name", NAMES)
def test_a_device_holds_its_part_alone(name: str) -> None:
    found, on = definition(name), placement("tensor=2")
    params = found.load_params(jnp.dtype("float32"), placement=on)
    leaves = jax.tree.leaves(params)
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    assert held < 0.65 * sum(leaf.nbytes for leaf in leaves)


def specs(name: str) -> dict[str, Any]:
    """The specs of parameters by their names."""
    model = definition(name).model
    names = param_names(model.param_specs, trained=model.trained)
    return dict(zip(names, jax.tree.leaves(model.param_specs), strict=True))


def test_metadata_of_nnx_is_read() -> None:
    found = specs("nnx")
    assert found["up.kernel"].axes == ("model", "mlp")
    assert found["attention.key.kernel"].axes == ("model", "heads", None)
    assert found["attention.key.kernel"].head_dim == 1
    assert found["norm.scale"].axes == (None,)
    assert found["embed.embedding"].axes == ("tensor", "model")  # by the module's own rules


def test_boxes_of_linen_are_read_and_rules_go_first() -> None:
    found = specs("linen")
    assert found["ScanCheckpointBlock_0.Dense_0.kernel"].axes == ("layers", "model", "mlp")
    assert found["ScanCheckpointBlock_0.Dense_1.kernel"].axes == (None, "tensor", "fsdp")


@pytest.mark.slow
def test_a_plan_of_transformers_is_read() -> None:
    found = specs("torch")
    assert found["model.embed_tokens.weight"].axes == ("vocab", "model")
    layer = "model.layers.1."
    assert found[f"{layer}self_attn.q_proj.weight"].axes == ("heads", "model")
    assert found[f"{layer}self_attn.k_proj.weight"].axes == ("kv_heads", "model")
    assert found[f"{layer}self_attn.k_proj.weight"].head_dim == 16
    assert found[f"{layer}self_attn.o_proj.weight"].axes == ("model", "heads")
    assert found[f"{layer}mlp.gate_proj.weight"].axes == ("mlp", "model")
    assert found[f"{layer}mlp.down_proj.weight"].axes == ("model", "mlp")
    assert found[f"{layer}input_layernorm.weight"].axes == (None,)


def test_heads_within_an_axis_stay_whole() -> None:
    found = specs("jax")
    assert (found["q"].head_dim, found["k"].head_dim, found["embed"].head_dim) == (16, 16, 1)
    six = placement("tensor=6")  # two KV heads are not divided by six: each device has both
    assert six.spec(found["k"].axes, found["k"].shape, head_dim=16) == P(
        "fsdp" if 0 else None, None
    )
    texts, _ = expected("jax")
    for got, one in zip(answers("jax", six), texts, strict=True):
        assert [each[0] for each in trace(got)] == [each[0] for each in trace(one)]


def tiny(rules: Any) -> None:
    model = definition("jax")
    flaxen.from_function(
        lambda params, tokens, positions: tokens, model.params, max_position=8, sharding=rules
    )


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            [("up", ("model", "mlp"))],
            r"rule 'up' matches no parameter: there are embed, k, out, q, v$",
        ),
        (
            [("q", ("model", "head"))],
            r"rule 'q': the axis 'head' is not known: use vocab, heads, kv",
        ),
        (
            [("q", ("model",))],
            r"names 1 axes, and q has the shape \[48, 96\]: give one name for each",
        ),
        ([("q(", ("model", None))], r"rule 'q\(' is no regular expression: missing \)"),
    ],
)
def test_a_rule_that_can_not_be_meant_is_refused(rules: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(rules)


def test_names_of_metadata_are_refused_on_a_mesh_alone() -> None:
    unknown = {"up": ParamSpec(shape=(4, 8), axes=("in", "out"), role="matrix")}
    with pytest.raises(
        ValueError, match=r"parameter up can't be divided .* axis 'in' is not known"
    ):
        param_shardings(unknown, placement("tensor=2"))


def test_metadata_that_can_not_be_followed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a table divides one axis over \('fsdp', 'tensor'\), w"):
        metadata_axes(P(("fsdp", "tensor"), None), 2, None, "a table")
    with pytest.raises(ValueError, match="a table has 1 axes, and its metadata names 2"):
        metadata_axes(("model", "mlp"), 1, None, "a table")


@pytest.mark.slow
def test_a_plan_that_is_not_known_is_refused() -> None:
    extra("torch")
    from flaxen.bridges.torch.plans import plan_axes
    from tests.bridges.torch_models import make

    module = make("Llama")
    fake = SimpleNamespace(
        tp_plan={"model.norm": "diagonal"},
        config=module.config,
        named_parameters=module.named_parameters,
    )
    with pytest.raises(
        ValueError, match=r"divides model\.norm\.weight in the way 'diagonal', which"
    ):
        plan_axes(fake)
