"""Definitions in NNX, Linen, PyTorch and JAX, whose parameters say how a mesh divides them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flaxen
from flaxen.definitions.definition import Definition
from flaxen.models.model import Model, Params
from tests.bridges.linen_model import Transformer as LinenTransformer
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
