"""Definitions in Flax and PyTorch train on a mesh as they do on one device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flaxen
from flaxen.models.model import Model, Params
from tests.bridges.linen_model import Transformer as LinenTransformer
from tests.bridges.nnx_model import Transformer as NnxTransformer
from tests.bridges.words import byte_tokenizer
from tests.extras import extra

TEXTS = ["the cat sat on the mat", "the dog sat on the log", "a bird in the hand"] * 4
OPTIONS: dict[str, Any] = {
    "tokenizer": byte_tokenizer(),
    "method": "full",
    "num_steps": 2,
    "learning_rate": 1e-2,
    "batch_size": 4,
    "sequence_length": 48,
    "optimizer": {"name": "sgd"},
    "backend": "reference",
}


def in_nnx() -> tuple[Model, Params]:
    return flaxen.from_nnx(NnxTransformer(rngs=nnx.Rngs(0)), max_position=128)


def in_linen() -> tuple[Model, Params]:
    module = LinenTransformer(num_layers=2)
    tokens = jnp.zeros((1, 4), jnp.int32)
    variables = jax.jit(module.init)(jax.random.key(0), tokens, tokens)
    return flaxen.from_linen(module, variables, max_position=128)


def in_torch() -> tuple[Model, Params]:
    extra("torch")
    from tests.bridges.torch_models import make

    found: tuple[Model, Params] = flaxen.from_transformers(make("Llama"))
    return found


@pytest.mark.parametrize(
    ("make", "mesh"),
    [
        (in_nnx, "data=2,context=2"),
        (in_linen, "fsdp=2,tensor=2"),
        # Importing PyTorch takes seconds.
        pytest.param(in_torch, "fsdp=2,context=2", marks=pytest.mark.slow),
    ],
)
def test_a_definition_trains_as_on_one_device(
    make: Callable[[], tuple[Model, Params]], mesh: str
) -> None:
    model, params = make()
    alone = flaxen.train(model, params, TEXTS, **OPTIONS)
    found = flaxen.train(model, params, TEXTS, mesh=mesh, **OPTIONS)
    for one, other in zip(found.metrics, alone.metrics, strict=True):
        for name in ("loss", "grad_norm", "accuracy"):
            np.testing.assert_allclose(one[name], other[name], rtol=1e-5, err_msg=name)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=0, atol=1e-5),
        found.params,
        alone.params,
    )
