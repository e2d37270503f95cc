"""Stock Flax Linen modules: lifted transforms, dropout, logical axes, statistics."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax")
import flax.linen as nn

import flaxen
from flaxen.kernels.backend import Backend
from flaxen.kernels.choice import choose_backend
from flaxen.models import attention_impls
from flaxen.models.params import compute_params
from tests.bridges.linen_model import Transformer
from tests.bridges.training import train_definition

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 250, (2, 24)), jnp.int32)
POSITIONS = jnp.broadcast_to(jnp.arange(24, dtype=jnp.int32), (2, 24))


def make(module: nn.Module) -> Any:
    return jax.jit(module.init)(jax.random.key(0), TOKENS, POSITIONS)


def test_the_forward_is_the_modules_own() -> None:
    module = Transformer(dropout=0.1)
    variables = make(module)
    model, params = flaxen.from_linen(module, variables, max_position=128)
    assert len(model.cache_specs) == 3  # one for each turn of the scan
    expected = module.apply(nn.meta.unbox(variables), TOKENS, POSITIONS)
    for backend in {Backend.REFERENCE, choose_backend()}:
        given = compute_params(
            model.param_specs, params, dtype=jnp.dtype("float32"), backend=backend
        )
        hidden, _ = model.forward(
            given, TOKENS, POSITIONS, attention_impls.causal(None, model.backend), (None,) * 3
        )
        np.testing.assert_allclose(model.unembed(given, hidden), expected, rtol=1e-4, atol=2e-5)


def test_logical_axes_are_read_and_layers_are_packed_one_by_one() -> None:
    module = Transformer()
    model, params = flaxen.from_linen(module, make(module), max_position=128)
    spec = model.param_specs["params"]["ScanCheckpointBlock_0"]["Dense_0"]["kernel"]
    assert (spec.shape, spec.axes) == ((3, 64, 256), ("layers", "model", "mlp"))
    assert (spec.matrix.layers, spec.matrix.inputs, spec.matrix.outputs) == (0, (1,), (2,))
    table = model.param_specs["params"]["Embed_0"]["embedding"]
    assert (table.matrix.inputs, table.matrix.outputs) == ((1,), (0,))  # tied: read, and multiplied
    packed = compute_params(
        model.param_specs, params, dtype=jnp.dtype("float32"), backend=Backend.CPU
    )
    kernel = packed["params"]["ScanCheckpointBlock_0"]["Dense_0"]["kernel"]
    assert [each.shape for each in kernel.values()] == [(64, 256)] * 3


class WithStatistics(nn.Module):
    """Normalised over the batch, and with a count of its own in a collection of its own."""

    @nn.compact
    def __call__(self, tokens: jax.Array, positions: jax.Array, train: bool = False) -> jax.Array:
        count = self.variable("counts", "calls", lambda: jnp.zeros((), jnp.int32))
        if train:
            count.value += 1
        x = nn.Embed(272, 32)(tokens)
        x += nn.MultiHeadDotProductAttention(2)(x, mask=nn.make_causal_mask(tokens))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)
        return nn.Dense(272)(x)


def test_mutable_collections_are_handed_from_step_to_step() -> None:
    module = WithStatistics()
    model, params = flaxen.from_linen(module, make(module), max_position=128)
    assert set(params) == {"params", "batch_stats", "counts"}
    state, _ = train_definition(model, params, 3)
    assert int(state.collections["counts"]["calls"]) == 3
    assert (state.collections["batch_stats"]["BatchNorm_0"]["mean"] != 0).all()


class OneSequence(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        return x + nn.MultiHeadDotProductAttention(2)(x, mask=mask)


class Mapped(nn.Module):
    """The module's layer sees one sequence, and is mapped over the batch."""

    @nn.compact
    def __call__(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        x = nn.Embed(272, 32)(tokens) + nn.Embed(128, 32)(positions)
        over_batch = nn.vmap(
            OneSequence,
            in_axes=0,
            variable_axes={"params": None},
            split_rngs={"params": False},
        )
        return nn.Dense(272)(over_batch()(x, nn.make_causal_mask(tokens)))


def test_a_vmap_inside_of_the_model() -> None:
    module = Mapped()
    variables = make(module)
    model, params = flaxen.from_linen(module, variables, max_position=128)
    hidden, _ = model.forward(
        params, TOKENS, POSITIONS, attention_impls.causal(None, model.backend), (None,)
    )
    expected = module.apply(variables, TOKENS, POSITIONS)
    np.testing.assert_allclose(model.unembed(params, hidden), expected, rtol=1e-4, atol=2e-5)


def test_dropout_inside_of_attention_is_refused_in_training() -> None:
    class Dropping(nn.Module):
        @nn.compact
        def __call__(
            self, tokens: jax.Array, positions: jax.Array, deterministic: bool = True
        ) -> jax.Array:
            x = nn.Embed(272, 32)(tokens)
            mask = nn.make_causal_mask(tokens)
            attention = nn.MultiHeadDotProductAttention(2, dropout_rate=0.1)
            return nn.Dense(272)(attention(x, mask=mask, deterministic=deterministic))

    module = Dropping()
    model, params = flaxen.from_linen(module, make(module), max_position=128)
    with pytest.raises(ValueError, match=r"dropout of 0\.1 inside attention is not supported"):
        train_definition(model, params, 1)
