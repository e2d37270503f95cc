"""Definitions on a mesh, divided by their own metadata or by rules, give what one device does."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

import flaxen
from flaxen.bridges.sharding import metadata_axes, param_names
from flaxen.engine.core import Engine
from flaxen.engine.jax_executor import JaxExecutor
from flaxen.kernels.backend import Backend
from flaxen.models.layout import param_shardings
from flaxen.models.logits import logits
from flaxen.models.model import Model, Params, ParamSpec
from flaxen.outputs import RequestOutput
from flaxen.sharding.placement import Placement
from flaxen.weights.definition import Definition
from tests.bridges.linen_model import Transformer as LinenTransformer
from tests.engine.fakes import spelled
from tests.engine.groups import groups
from tests.engine.tiny import EOS_ID, ONE_SHAPE, make_engine, request, run, trace
from tests.extras import extra
from tests.mesh.meshes import placement

# Importing PyTorch takes seconds.
NAMES = ("nnx", "linen", pytest.param("torch", marks=pytest.mark.slow), "jax")


_RULES = (("model", "fsdp"), ("mlp", "tensor"), ("heads", "tensor"), ("words", "tensor"))


def _init(*names: str | None) -> Any:
    return nnx.with_partitioning(nnx.initializers.lecun_normal(), names, sharding_rules=_RULES)


class Network(nnx.Module):
    """Annotated as Flax's documentation does it; `words` is a name of its own."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(272, 64, embedding_init=_init("words", "model"), rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            num_heads=4,
            in_features=64,
            decode=False,
            kernel_init=_init("model", "heads", None),
            out_kernel_init=_init("heads", None, "model"),
            rngs=rngs,
        )
        self.norm = nnx.RMSNorm(64, rngs=rngs)
        self.up = nnx.Linear(64, 256, kernel_init=_init("model", "mlp"), rngs=rngs)
        self.down = nnx.Linear(256, 64, kernel_init=_init("mlp", "model"), rngs=rngs)

    def __call__(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        x = self.embed(tokens)
        x = x + jnp.sin(positions[..., None] / (1 + jnp.arange(64, dtype=jnp.float32))[None, None])
        x = x + self.attention(self.norm(x), mask=nnx.make_causal_mask(tokens))
        x = x + self.down(nnx.gelu(self.up(self.norm(x))))
        return self.embed.attend(x)


def in_nnx() -> tuple[Model, Params]:
    """Made on the user's own mesh, as Flax wants it for a module with annotations."""
    with jax.set_mesh(placement("fsdp=2,tensor=4").mesh):
        return flaxen.from_nnx(Network(nnx.Rngs(0)), max_position=128)


def in_linen() -> tuple[Model, Params]:
    """Boxes of logical partitioning on the first product of the MLP, and rules for the others."""
    module = LinenTransformer(num_layers=2)
    tokens = jnp.zeros((1, 4), jnp.int32)
    variables = jax.jit(module.init)(jax.random.key(0), tokens, tokens)
    rules = [
        (r"Embed_0\.embedding", ("vocab", "model")),
        (r"(query|key|value)\.kernel", ("layers", "model", "heads", None)),
        (r"out\.kernel", ("layers", "heads", None, "model")),
        (r"Dense_1\.kernel", (None, "tensor", "fsdp")),
    ]
    return flaxen.from_linen(module, variables, max_position=128, sharding=rules)


def in_torch() -> tuple[Model, Params]:
    """transformers' Llama, by its own plan of tensor parallelism."""
    extra("torch")
    from tests.bridges.torch_models import make

    found: tuple[Model, Params] = flaxen.from_transformers(make("Llama"))
    return found


def in_jax() -> tuple[Model, Params]:
    """A function whose heads are not an axis of their own, in grouped queries."""
    rng = np.random.default_rng(0)
    dim, heads, kv_heads, head_dim = 48, 6, 2, 16
    shapes = {
        "embed": (272, dim),
        "q": (dim, heads * head_dim),
        "k": (dim, kv_heads * head_dim),
        "v": (dim, kv_heads * head_dim),
        "out": (heads * head_dim, dim),
    }
    params = {
        name: jnp.asarray(rng.normal(0, shape[0] ** -0.5, shape), jnp.float32)
        for name, shape in shapes.items()
    }

    def network(params: Params, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        x = params["embed"][tokens]
        x = x + jnp.sin(positions[..., None] / (1 + jnp.arange(dim, dtype=jnp.float32))[None, None])
        q, k, v = (
            (x @ params[name]).reshape(*x.shape[:-1], -1, head_dim) for name in ("q", "k", "v")
        )
        h = flaxen.attend(q, k, v, window=24).reshape(*x.shape[:-1], -1)
        return (x + h @ params["out"]) @ params["embed"].T

    rules = [
        ("embed", ("vocab", "model")),
        ("^q$", ("model", "heads")),
        ("^[kv]$", ("model", "kv_heads")),
        ("out", ("heads", "model")),
    ]
    return flaxen.from_function(network, params, max_position=128, sharding=rules), params


@functools.cache
def definition(name: str) -> Definition:
    makers: dict[str, Callable[[], tuple[Model, Params]]] = {
        "nnx": in_nnx, "linen": in_linen, "torch": in_torch, "jax": in_jax,
    }  # fmt: skip
    model, params = makers[name]()
    return Definition(model=model, params=params, tokenizer="none")


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
