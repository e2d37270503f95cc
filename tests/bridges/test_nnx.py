"""Stock Flax NNX modules: computed, served and trained as they are."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax")
from flax import nnx

import flaxen
from flaxen.checkpoints.checkpoints import Checkpoints
from flaxen.kernels.backend import Backend
from flaxen.kernels.choice import choose_backend
from flaxen.models import attention_impls
from flaxen.models.adapters import LoraConfig, lora_targets, with_adapters
from flaxen.models.params import compute_params, is_spec
from flaxen.training.lora import initial_adapters
from tests.bridges.nnx_model import Block, Transformer
from tests.bridges.training import train_definition
from tests.models.plain import plain_params

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 250, (2, 24)), jnp.int32)
POSITIONS = jnp.broadcast_to(jnp.arange(24, dtype=jnp.int32), (2, 24))


def make(**sizes: object) -> Transformer:
    return Transformer(**sizes, rngs=nnx.Rngs(0))  # type: ignore[arg-type]


def test_the_forward_is_the_modules_own() -> None:
    module = make(dropout=0.1)
    model, params = flaxen.from_nnx(module, max_position=128)
    assert [(each.num_kv_heads, each.head_dim) for each in model.cache_specs] == [(4, 16)] * 2
    assert (model.vocab_size, model.trained) == (272, "params")
    module.eval()
    expected = module(TOKENS, POSITIONS)
    for backend in {Backend.REFERENCE, choose_backend()}:
        given = compute_params(
            model.param_specs, params, dtype=jnp.dtype("float32"), backend=backend
        )
        hidden, _ = model.forward(
            given, TOKENS, POSITIONS, attention_impls.causal(None, model.backend), (None,) * 2
        )
        assert hidden.shape == (2, 24, 64)  # what the scores are made of, not the scores
        np.testing.assert_allclose(model.unembed(given, hidden), expected, rtol=1e-4, atol=2e-5)


def test_every_matrix_is_packed() -> None:
    model, params = flaxen.from_nnx(make(), max_position=128)
    specs = jax.tree.leaves(model.param_specs, is_leaf=is_spec)
    # Of each layer query, key, value, out, up and down; and the head. Both tables are only read.
    assert sum(spec.matrix is not None for spec in specs) == 2 * 6 + 1
    packed = compute_params(
        model.param_specs, params, dtype=jnp.dtype("float32"), backend=Backend.CPU
    )
    back = plain_params(model.param_specs, packed)
    assert jax.tree.all(jax.tree.map(lambda one, other: bool((one == other).all()), params, back))


def test_an_adapter_beside_plain_arrays_gives_what_it_gives_beside_packed_ones() -> None:
    model, params = flaxen.from_nnx(make(), max_position=128)
    config = LoraConfig(rank=4, targets=lora_targets(model))
    stack = jax.tree.map(lambda leaf: leaf + 0.02, initial_adapters(model, config, [0]))
    found = []
    for backend in (Backend.REFERENCE, choose_backend()):
        given = compute_params(
            model.param_specs, params, dtype=jnp.dtype("float32"), backend=backend
        )
        ids = jnp.zeros(TOKENS.shape, jnp.int32)
        adapted = with_adapters(given, stack, jnp.ones(1), ids)
        hidden, _ = model.forward(
            adapted, TOKENS, POSITIONS, attention_impls.causal(None, model.backend), (None,) * 2
        )
        found.append(hidden)
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-4)
    alone, _ = model.forward(
        params, TOKENS, POSITIONS, attention_impls.causal(None, model.backend), (None,) * 2
    )
    assert jnp.abs(found[0] - alone).max() > 0.01


def test_a_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    model, params = flaxen.from_nnx(WithStatistics(nnx.Rngs(0)), max_position=128)
    state, _ = train_definition(model, params, 2)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state._replace(data_state=None), force=True)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(state._replace(data_state=None))
    for name in ("params", "opt_state", "collections"):
        one, other = getattr(state, name), getattr(restored.tree, name)
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one, other))


def test_dropout_is_drawn_by_the_runs_key() -> None:
    model, params = flaxen.from_nnx(make(dropout=0.5), max_position=128)
    assert model.train_forward_on is not None

    def hidden(seed: int) -> jax.Array:
        assert model.train_forward_on is not None
        key = jax.random.key(seed)
        return model.train_forward(
            params, TOKENS, POSITIONS, attention_impls.causal(None, model.backend), key
        )[0]

    assert (hidden(0) == hidden(0)).all()
    assert not (hidden(0) == hidden(1)).all()


class WithStatistics(nnx.Module):
    """Counts in a collection of its own how often it was trained, and scales by a running mean."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(272, 32, rngs=rngs)
        self.block = Block(32, 2, 0.0, rngs)
        self.norm = nnx.BatchNorm(32, momentum=0.5, rngs=rngs)
        self.head = nnx.Linear(32, 272, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.block(self.embed(tokens), nnx.make_causal_mask(tokens))
        return self.head(self.norm(x))


def test_statistics_are_a_collection_that_training_hands_on() -> None:
    model, params = flaxen.from_nnx(WithStatistics(nnx.Rngs(0)), max_position=128)
    assert set(params) == {"params", "batch_stats"}
    state, _ = train_definition(model, params, 3)
    mean = state.collections["batch_stats"]["norm"]["mean"]
    assert mean.shape == (32,)
    assert (mean != 0).all()
    assert set(state.collections) == {"batch_stats"}


class WithoutSeam(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(272, 32, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embed(tokens)
        scores = jnp.where(nnx.make_causal_mask(tokens)[:, 0], x @ x.swapaxes(1, 2), -1e9)
        return self.embed.attend(jax.nn.softmax(scores) @ x)


class WithOwnPositions(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.inner = make()

    def __call__(self, tokens: jax.Array) -> jax.Array:
        return self.inner(tokens, jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape))


class Bidirectional(Transformer):
    def __call__(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        x = self.embed(tokens) + self.position(positions)
        for block in self.blocks:
            x = block(x, None)
        return self.head(self.norm(x))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (WithoutSeam(nnx.Rngs(0)), "contains no attention that can be replaced"),
        (WithOwnPositions(nnx.Rngs(0)), "positions as an argument"),
        (Bidirectional(rngs=nnx.Rngs(0)), "must be causal"),
    ],
)
def test_what_cannot_be_served_is_refused(module: nnx.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flaxen.from_nnx(module, max_position=128)
