"""Plain functions of JAX, over trees of any kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxen
from flaxen.definitions.definition import Definition
from flaxen.kernels.backend import Backend
from flaxen.kernels.choice import choose_backend
from flaxen.models import attention_impls
from flaxen.models.adapters import LoraConfig, lora_targets, with_adapters
from flaxen.models.attention import attend
from flaxen.training.lora import initial_adapters
from tests.bridges.words import VOCAB_SIZE, byte_tokenizer

DIM, HEADS, KV_HEADS = 64, 4, 2


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Layer:
    """A pytree of a class of its own, as Equinox's modules are."""

    qkv: jax.Array
    out: jax.Array
    up: jax.Array
    down: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Weights:
    embed: jax.Array
    layers: tuple[Layer, ...]


def make_weights(num_layers: int = 2) -> Weights:
    rng = np.random.default_rng(0)

    def random(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape) / np.sqrt(shape[0]), jnp.float32)

    width = DIM // HEADS * (HEADS + 2 * KV_HEADS)
    layers = tuple(
        Layer(random(DIM, width), random(DIM, DIM), random(DIM, 128), random(128, DIM))
        for _ in range(num_layers)
    )
    return Weights(random(VOCAB_SIZE, DIM) * 4, layers)


def norm(x: jax.Array) -> jax.Array:
    return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5)


def rotate(x: jax.Array, positions: jax.Array) -> jax.Array:
    half = x.shape[-1] // 2
    frequencies = 100 ** -(jnp.arange(half) / half)
    angles = jnp.einsum("...,H->...H", positions, frequencies)[..., None, :]
    first, second = x[..., :half], x[..., half:]
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def transformer(
    weights: Weights, tokens: jax.Array, positions: jax.Array, **options: Any
) -> jax.Array:
    x = weights.embed[tokens]
    for layer in weights.layers:
        qkv = norm(x) @ layer.qkv
        qkv = qkv.reshape(*x.shape[:-1], HEADS + 2 * KV_HEADS, DIM // HEADS)
        q, k, v = jnp.split(qkv, [HEADS, HEADS + KV_HEADS], axis=-2)
        out = attend(rotate(q, positions), rotate(k, positions), v, **options)
        x = x + out.reshape(x.shape) @ layer.out
        x = x + jax.nn.gelu(norm(x) @ layer.up) @ layer.down
    return norm(x) @ weights.embed.T


def test_quantized_weights_are_close() -> None:
    if choose_backend() is not Backend.CPU:
        pytest.skip("the library was not built")
    model = flaxen.from_function(transformer, make_weights(), max_position=128)
    definition = Definition(model=model, params=make_weights(), tokenizer=byte_tokenizer())
    plain = flaxen.LLM(definition, max_num_seqs=2)
    small = flaxen.LLM(definition, max_num_seqs=2, quantization="int8")
    sampling = flaxen.SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, logprobs=0)

    def scores(llm: flaxen.LLM) -> list[float]:
        (output,) = llm.generate([[5, 9, 200, 31]], sampling)
        found = output.outputs[0]
        assert found.logprobs is not None
        return [
            at[token].logprob for token, at in zip(found.token_ids, found.logprobs, strict=True)
        ]

    # Eight bits a weight move a log-probability of this model by up to 0.02.
    np.testing.assert_allclose(scores(small), scores(plain), atol=0.03)
    assert scores(small) != scores(plain)


def test_attend_by_itself_is_causal_attention_with_its_gradient() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((2, 9, n, 8)), jnp.float32) for n in (4, 2, 2))

    def expected(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        keys, values = (jnp.repeat(each, 2, axis=2) for each in (k, v))
        scores = jnp.einsum("BTNH,BSNH->BNTS", q, keys) / np.sqrt(8)
        scores = jnp.where(jnp.tril(jnp.ones((9, 9), bool)), scores, -jnp.inf)
        return jnp.einsum("BNTS,BSNH->BTNH", jax.nn.softmax(scores), values)

    np.testing.assert_allclose(attend(q, k, v), expected(q, k, v), atol=1e-5)
    np.testing.assert_allclose(jax.vmap(attend)(q, k, v), expected(q, k, v), atol=1e-5)
    ours, theirs = (
        jax.grad(lambda *args, f=f: jnp.sum(f(*args) ** 2), argnums=(0, 1, 2))(q, k, v)
        for f in (attend, expected)
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def cross(weights: Weights, tokens: jax.Array, positions: jax.Array) -> jax.Array:
    x = weights.embed[tokens][..., None, :]
    return attend(x[:, ::2], x[:, ::2], x[:, ::2])[..., 0, :].repeat(2, axis=1) @ weights.embed.T


def in_while(weights: Weights, tokens: jax.Array, positions: jax.Array) -> jax.Array:
    x = weights.embed[tokens][..., None, :]
    x = jax.lax.fori_loop(0, tokens[0, 0], lambda _, x: attend(x, x, x), x)
    return x[..., 0, :] @ weights.embed.T


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (cross, "only causal self-attention can be served"),
        (in_while, "attention inside while can't have a cache"),
        (
            lambda w, tokens, positions: w.embed[tokens] @ w.embed.T,
            "contains no attention that can be replaced",
        ),
        (
            lambda w, tokens, positions: w.embed[tokens].sum(),
            "must return the logits of each token",
        ),
    ],
)
def test_what_cannot_be_served_is_refused(function: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flaxen.from_function(function, make_weights(), max_position=128)


def test_attend_refuses_what_does_not_go_together() -> None:
    q = jnp.zeros((1, 4, 3, 8))
    with pytest.raises(ValueError, match="3 query heads can't share 2"):
        attend(q, q[:, :, :2], q[:, :, :2])
    with pytest.raises(ValueError, match="of the same tokens"):
        attend(q, q[:, :3], q[:, :3])


def test_an_adapter_that_would_be_lost_is_refused() -> None:
    weights = {"rest": make_weights(), "mixed": jnp.eye(DIM)}

    def definition(weights: Any, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        mixed = jax.lax.dot_general(
            weights["rest"].embed[tokens].astype(jnp.bfloat16),
            weights["mixed"],
            (((2,), (0,)), ((), ())),
            preferred_element_type=jnp.float32,
        )
        scores = transformer(weights["rest"], tokens, positions)
        return scores + mixed @ weights["rest"].embed.T

    model = flaxen.from_function(definition, weights, max_position=128)
    config = LoraConfig(rank=2, targets=lora_targets(model, "mixed"))
    tokens = jnp.arange(8, dtype=jnp.int32)[None]
    ids, scales = jnp.zeros(tokens.shape, jnp.int32), jnp.ones(1)
    given = with_adapters(weights, initial_adapters(model, config, [0]), scales, ids)
    with pytest.raises(ValueError, match=r"targets a parameter of shape \[64, 64\], .* be lost"):
        model.forward(
            given, tokens, tokens, attention_impls.causal(None, model.backend), (None,) * 2
        )
