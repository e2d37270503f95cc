"""Dropout of modules of PyTorch: on in training by the run's key, off in serving."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from flaxen.bridges.torch.bridge import from_torch
from flaxen.bridges.torch.transformers import from_transformers
from flaxen.models.model import Model, Params
from flaxen.training.loss import next_token
from tests.bridges.torch_models import CONFIGS, Own, make
from tests.bridges.training import counting_batches, train_definition

pytestmark = pytest.mark.slow


def losses_by_key(model: Model, params: Params) -> Any:
    """A jitted function of a key, or None, to a batch's mean loss and its gradient."""
    objective, batch = next_token(model), counting_batches(1)[0]
    total = float(objective.denominators(batch).sum())

    def loss(trained: Any, key: jax.Array | None) -> jax.Array:
        given = {**params, "params": trained}
        return objective.losses(lambda _: given, None, batch, key).rows.sum() / total

    return functools.partial(jax.jit(jax.value_and_grad(loss)), params["params"])


def random_bits(model: Model, params: Params, key: jax.Array | None) -> int:
    """How many operations of a training forward draw."""
    batch = counting_batches(1)[0]
    objective = next_token(model)
    jaxpr = jax.make_jaxpr(lambda key: objective.losses(lambda _: params, None, batch, key).rows)
    return sum(_primitives(jaxpr(key).jaxpr)[name] for name in ("random_bits", "threefry2x32"))


def _primitives(jaxpr: Any) -> Counter[str]:
    found: Counter[str] = Counter()
    for eqn in jaxpr.eqns:
        found[eqn.primitive.name] += 1
        for each in eqn.params.values():
            inner = getattr(each, "jaxpr", each)
            found += _primitives(inner) if hasattr(inner, "eqns") else Counter()
    return found


def gpt2(**fields: float) -> Any:
    """transformers' own, of which nn.Dropout is a part."""
    torch.manual_seed(0)
    none = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    config = transformers.GPT2Config(**{**CONFIGS["GPT2"], **none, **fields})
    return transformers.GPT2LMHeadModel(config)


def definition(name: str, rate: float) -> tuple[Model, Params]:
    """With F.dropout by `self.training`, or with transformers' nn.Dropout."""
    if name == "own":
        return from_torch(Own(dropout=rate), max_position=128)
    return from_transformers(gpt2(resid_pdrop=rate, embd_pdrop=rate))


@pytest.mark.parametrize("name", ["own", "gpt2"])
def test_the_key_decides_what_is_dropped(name: str) -> None:
    model, params = definition(name, 0.1)
    losses = losses_by_key(model, params)
    found = [losses(jax.random.key(seed)) for seed in range(12)]
    values = np.array([float(value) for value, _ in found])
    again, gradient = losses(jax.random.key(0))
    assert float(again) == values[0]
    jax.tree.map(np.testing.assert_array_equal, gradient, found[0][1])
    assert len(set(values.tolist())) == 12
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(found[0][1]))
    without = float(losses(None)[0])
    assert without not in values
    np.testing.assert_allclose(values.mean(), without, rtol=0.1)


@pytest.mark.parametrize("name", ["own", "gpt2"])
def test_a_rate_of_zero_draws_nothing_and_changes_no_bit(name: str) -> None:
    model, params = definition(name, 0.0)
    assert random_bits(model, params, jax.random.key(0)) == 0
    losses = losses_by_key(model, params)
    (value, gradient), (expected, expected_gradient) = losses(jax.random.key(0)), losses(None)
    assert float(value) == float(expected)
    jax.tree.map(np.testing.assert_array_equal, gradient, expected_gradient)
    dropping = definition(name, 0.1)
    assert random_bits(*dropping, jax.random.key(0)) > 0
    assert random_bits(*dropping, None) == 0  # as it is served and evaluated


class WithStatistics(Own):
    """Normalised over the batch."""

    def __init__(self) -> None:
        super().__init__(dropout=0.1)
        self.statistics = torch.nn.BatchNorm1d(64)

    def forward(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        scores = super().forward(tokens, positions)
        x = scores @ self.embed.weight
        return self.statistics(x.transpose(1, 2)).transpose(1, 2) @ self.embed.weight.T


def test_statistics_of_batches_stay_what_they_are() -> None:
    model, params = from_torch(WithStatistics(), max_position=128)
    state, losses = train_definition(model, params, 2)
    assert np.isfinite(losses).all()
    jax.tree.map(np.testing.assert_array_equal, state.collections["buffers"], params["buffers"])


def test_dropout_inside_of_attention_is_refused_in_training() -> None:
    model, params = from_transformers(gpt2(attn_pdrop=0.2))
    with pytest.raises(ValueError, match=r"has dropout of 0\.2 on attention weights .*attn_pdrop"):
        train_definition(model, params, 1)


def test_layers_that_are_left_out_are_refused_in_training() -> None:
    module = make("Llama")
    module.config.layerdrop = 0.1
    model, params = from_transformers(module)
    with pytest.raises(ValueError, match="leaves out whole layers in training"):
        train_definition(model, params, 1)
