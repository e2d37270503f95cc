"""Encoders = transformers' own classes, in float32; their gradients are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxen
from flaxen.weights.encoder_checkpoint import open_encoder
from tests.models import encoders

torch = pytest.importorskip("torch")
LENGTHS = [9, 1, 30, 17]


def theirs(model: Any, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    base = model if not hasattr(model, "cls") else model.bert
    padding = getattr(model.config, "pad_token_id", 0) or 0
    ids = np.where(mask, ids, padding)  # RoBERTa counts positions by the padding's id
    with torch.no_grad():
        out = base(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask).long())
    return out.last_hidden_state.numpy()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", encoders.CASES)
def test_hidden_states_are_transformers(name: str, tmp_path: Path) -> None:
    model = encoders.make(encoders.CASES[name])
    encoders.save(model, tmp_path / "model")
    ids, mask = encoders.batch(LENGTHS)
    expected = theirs(model, ids, mask)
    tokens, segments = jnp.asarray(np.where(mask, ids, -1)), jnp.asarray(mask, jnp.int32)
    for backend in ("reference", "cpu"):
        ours, params = flaxen.load(tmp_path / "model", backend=backend)
        found = np.asarray(flaxen.encode(ours, params, tokens, segments))
        np.testing.assert_allclose(found[mask], expected[mask], rtol=0, atol=1e-4)


def test_gradients_are_right(tmp_path: Path) -> None:
    encoders.save(encoders.make(encoders.CASES["bert"]), tmp_path / "model")
    model, params = flaxen.load(tmp_path / "model")
    tokens = jnp.asarray(encoders.batch([7, 7])[0])
    direction = jax.tree.map(
        lambda leaf: jnp.asarray(np.random.default_rng(leaf.size).standard_normal(leaf.shape)),
        params,
    )

    def loss(params: Any) -> jax.Array:
        return jnp.sum(flaxen.encode(model, params, tokens) ** 2 * jnp.arange(48.0)[None, None])

    gradient = jax.jit(jax.grad(loss))(params)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    along = sum(float(jnp.vdot(a, b)) for a, b in pairs)

    def moved(step: float) -> float:
        return float(loss(jax.tree.map(lambda p, d: p + step * d, params, direction)))

    assert along == pytest.approx((moved(1e-3) - moved(-1e-3)) / 2e-3, rel=2e-2)
    packed, own = flaxen.load(tmp_path / "model", backend="cpu")
    assert packed.backend.value == "cpu"
    np.testing.assert_allclose(
        flaxen.encode(packed, own, tokens), flaxen.encode(model, params, tokens), atol=1e-5
    )


def test_segments_of_a_row_are_sequences_of_their_own(tmp_path: Path) -> None:
    encoders.save(encoders.make(encoders.CASES["roberta"]), tmp_path / "model")
    model, params = flaxen.load(tmp_path / "model")
    ids = jnp.asarray(encoders.batch([12])[0])
    segments = jnp.asarray([[1] * 5 + [2] * 7])
    packed = flaxen.encode(model, params, ids, segments)
    alone = flaxen.encode(model, params, ids[:, 5:])
    np.testing.assert_allclose(packed[:, 5:], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("position_embedding_type", "relative_key", "position_embedding_type = 'relative_key'"),
        ("hidden_act", "silu", "hidden_act = 'silu' is not supported: an encoder has gelu"),
        ("is_decoder", True, "is_decoder = True is not supported"),
        ("layer_norm_eps", 0, "layer_norm_eps must be a number above 0, got 0"),
        ("hidden_size", 50, r"model_dim \(50\) must be a multiple of num_heads \(3\)"),
        ("intermediate_size", 71, "the two do not belong together"),
        ("num_hidden_layers", 3, "tensor encoder.layer.2.* is missing"),
        ("num_hidden_layers", 1, "tensor encoder.layer.1.* has no place in the model"),
    ],
)
def test_what_is_not_supported_is_refused(
    field: str, value: object, message: str, tmp_path: Path
) -> None:
    encoders.save(encoders.make(encoders.CASES["bert"]), tmp_path)
    encoders.change(tmp_path / "config.json", **{field: value})
    with pytest.raises(ValueError, match=message):
        open_encoder(tmp_path)


def test_old_names_of_norms_are_read(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    encoders.save(encoders.make(encoders.CASES["bert"]), tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): each
        for name, each in tensors.items()
    }
    expected = flaxen.load(tmp_path)[1]
    save_file(old, file, metadata={"format": "pt"})
    jax.tree.map(np.testing.assert_array_equal, flaxen.load(tmp_path)[1], expected)


def test_arguments_of_encode_are_checked(tmp_path: Path) -> None:
    encoders.save(encoders.make(encoders.CASES["bert"]), tmp_path)
    model, params = flaxen.load(tmp_path)
    with pytest.raises(ValueError, match=r"tokens must be integers \[B, T\]"):
        flaxen.encode(model, params, jnp.zeros((3,), jnp.int32))
    with pytest.raises(ValueError, match=r"segment_ids must be \[B, T\] like tokens"):
        flaxen.encode(model, params, jnp.zeros((1, 3), jnp.int32), jnp.ones((1, 2), jnp.int32))
    with pytest.raises(ValueError, match="an encoder gives no logits of next tokens"):
        flaxen.logits(model, params, jnp.zeros((1, 3), jnp.int32))
