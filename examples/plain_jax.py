"""A transformer as a plain function of JAX, served and differentiated as it is.

    python examples/plain_jax.py
    flaxen serve examples/plain_jax.py:definition

Its weights are random, from a fixed seed: its text is meaningless, but the same on every machine.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import flaxen

DIM, HEADS, LAYERS = 128, 4, 2


def weights(vocab_size: int) -> dict[str, jax.Array]:
    """Random parameters, each kind stacked over the layers so that `lax.scan` can loop over it."""
    rng = np.random.default_rng(0)
    shapes = {
        "embed": (vocab_size, DIM),
        "qkv": (LAYERS, DIM, 3 * DIM),
        "out": (LAYERS, DIM, DIM),
        "up": (LAYERS, DIM, 4 * DIM),
        "down": (LAYERS, 4 * DIM, DIM),
    }
    return {
        name: jnp.asarray(rng.standard_normal(shape) / np.sqrt(shape[-2]), jnp.float32)
        for name, shape in shapes.items()
    }


def norm(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5)


def forward(params: dict[str, jax.Array], tokens: jax.Array, positions: jax.Array) -> jax.Array:
    """Logits [B, T, V]. Positions are not used: the causal mask alone tells the order of tokens."""

    def layer(x: jax.Array, own: dict[str, jax.Array]) -> tuple[jax.Array, None]:
        q, k, v = jnp.split(norm(x) @ own["qkv"], 3, axis=-1)
        heads = (each.reshape(*x.shape[:-1], HEADS, -1) for each in (q, k, v))
        x = x + flaxen.attend(*heads).reshape(x.shape) @ own["out"]
        return x + jax.nn.gelu(norm(x) @ own["up"]) @ own["down"], None

    layers = {name: each for name, each in params.items() if name != "embed"}
    x, _ = jax.lax.scan(layer, params["embed"][tokens] * DIM**0.5, layers)
    return norm(x) @ params["embed"].T


def definition() -> flaxen.Definition:
    params = weights(49152)
    model = flaxen.from_function(forward, params, max_position=512)
    return flaxen.Definition(model=model, params=params, tokenizer="smollm2-135m", name="plain-jax")


if __name__ == "__main__":
    llm = flaxen.LLM(definition(), max_num_seqs=4)
    (output,) = llm.generate("Once", flaxen.SamplingParams(temperature=0, max_tokens=8))
    print(output.outputs[0].token_ids)
