"""Latent attention in its absorbed form = keys and values of all heads made of the latents."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels.backend import Backend
from flaxen.models import attention_impls
from flaxen.models.cache import Latent
from flaxen.models.layers.latent_attention import LatentAttention
from flaxen.models.layers.norm import Norm
from flaxen.models.layers.part import Fused, Step
from flaxen.models.rope import rope_tables
from flaxen.models.rope_config import RopeConfig

D, T = 20, 9
MIXER = LatentAttention(
    num_heads=3,
    q_rank=10,
    kv_rank=14,
    nope_dim=8,
    rope_dim=6,
    value_dim=5,
    rope=RopeConfig(interleaved=True),
    latent_norm=Norm(eps=1e-6),
    has_biases=True,
)


def make_params(mixer: LatentAttention) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    return {
        name: jnp.asarray(rng.normal(size=spec.shape) / np.sqrt(spec.shape[0]), jnp.float32)
        for name, spec in mixer.param_specs(D).items()
    }


def run(mixer: LatentAttention, p: Any, x: jax.Array, residual: jax.Array | None) -> jax.Array:
    positions = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
    assert mixer.rotation is not None
    tables = rope_tables(*mixer.rotation, positions)
    step = Step(positions, tables, attention_impls.causal(None, Backend.REFERENCE))
    out, _ = mixer(p, x, step, None, Fused(None, residual), Backend.REFERENCE)
    return out


def explicit(mixer: LatentAttention, p: Any, x: np.ndarray) -> np.ndarray:
    """One sequence [T, D], with the keys and values of each head."""
    p = {name: np.asarray(each, np.float64) for name, each in p.items()}

    def normed(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6) * p[name]

    def rotated(x: np.ndarray) -> np.ndarray:  # [T, ..., R]
        half = x.shape[-1] // 2
        angles = np.arange(len(x))[:, None] / 10_000 ** (np.arange(half) / half)
        angles = angles.reshape(len(x), *(1,) * (x.ndim - 2), half)
        turned = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
        return np.stack([turned.real, turned.imag], -1).reshape(x.shape)

    N, nope, rank = mixer.num_heads, mixer.nope_dim, mixer.kv_rank
    if mixer.q_rank is None:
        q = x @ p["wq"]
    else:
        q = normed(x @ p["wq_a"] + p.get("bq_a", 0), "q_a_norm") @ p["wq_b"]
    q = q.reshape(len(x), N, -1)
    kv = x @ p["wkv_a"] + p.get("bkv_a", 0)
    latents = normed(kv[:, :rank], "kv_a_norm")
    keys = np.einsum("SR,NHR->SNH", latents, p["w_uk"])
    shared = np.repeat(rotated(kv[:, None, rank:]), N, axis=1)
    q = np.concatenate([q[..., :nope], rotated(q[..., nope:])], -1)
    keys = np.concatenate([keys, shared], -1)
    values = np.einsum("SR,NRV->SNV", latents, p["w_uv"])
    scores = np.einsum("TNH,SNH->NTS", q, keys) * (mixer.scale or q.shape[-1] ** -0.5)
    weights = np.exp(np.where(np.tril(np.ones((len(x), len(x)))), scores, -np.inf))
    weights /= weights.sum(-1, keepdims=True)
    out = np.einsum("NTS,SNV->TNV", weights, values).reshape(len(x), -1)
    return out @ p["wo"] + p.get("bo", 0)


@pytest.mark.parametrize("mixer", [MIXER, replace(MIXER, q_rank=None, has_biases=False, scale=0.4)])
def test_equals_keys_and_values_of_each_head(mixer: LatentAttention) -> None:
    p = make_params(mixer)
    rng = np.random.default_rng(1)
    x, residual = (rng.normal(size=(2, T, D)).astype(np.float32) for _ in range(2))
    found = run(mixer, p, jnp.asarray(x), jnp.asarray(residual))
    expected = np.stack([explicit(mixer, p, each) for each in x]) + residual
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_a_gradient_is_the_differences_limit() -> None:
    p = make_params(MIXER)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(1, T, D)), jnp.float32)

    def loss(p: Any) -> jax.Array:
        return jnp.sum(jnp.sin(run(MIXER, p, x, None)))

    gradients = jax.jit(jax.grad(loss))(p)
    ways = jax.tree.map(lambda each: jnp.cos(jnp.arange(each.size)).reshape(each.shape), p)
    exact = {name: explicit_slope(p, ways, x, name) for name in ("w_uk", "w_uv", "wkv_a", "wq_b")}
    for name, slope in exact.items():
        assert float(jnp.sum(gradients[name] * ways[name])) == pytest.approx(slope, rel=2e-3)


def explicit_slope(p: Any, ways: Any, x: jax.Array, name: str) -> float:
    def loss(step: float) -> float:
        moved = p | {name: np.asarray(p[name], np.float64) + step * np.asarray(ways[name])}
        return float(np.sin(explicit(MIXER, moved, np.asarray(x[0], np.float64))).sum())

    return (loss(1e-5) - loss(-1e-5)) / 2e-5


def test_what_it_keeps_and_refuses() -> None:
    assert MIXER.cache_spec() == Latent(rank=14, rope_dim=6)
    with pytest.raises(ValueError, match="kv_rank must be above 0, got 0"):
        replace(MIXER, kv_rank=0)
    with pytest.raises(ValueError, match="q_rank must be above 0, or None, got 0"):
        replace(MIXER, q_rank=0)
    with pytest.raises(ValueError, match="rope rotates pairs, and 1 of a head of 5"):
        replace(MIXER, rope_dim=5)
