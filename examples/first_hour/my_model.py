"""A small transformer in Flax NNX: the model's author knows nothing of flaxen but attend."""

import jax
import jax.numpy as jnp
from flax import nnx

import flaxen

VOCAB, DIM, HEADS, LAYERS = 49152, 128, 4, 4


class Block(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norms = nnx.List([nnx.RMSNorm(DIM, rngs=rngs) for _ in range(2)])
        self.qkv = nnx.Linear(DIM, 3 * DIM, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(DIM, DIM, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(DIM, 4 * DIM, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(4 * DIM, DIM, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        heads = self.qkv(self.norms[0](x)).reshape(*x.shape[:-1], 3 * HEADS, DIM // HEADS)
        x = x + self.out(flaxen.attend(*jnp.split(heads, 3, axis=-2)).reshape(x.shape))
        return x + self.down(jax.nn.gelu(self.up(self.norms[1](x))))


class MyModel(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(VOCAB, DIM, rngs=rngs)
        self.position = nnx.Embed(512, DIM, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(LAYERS)])
        self.norm = nnx.RMSNorm(DIM, rngs=rngs)

    def __call__(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        x = self.embed(tokens) + self.position(positions)
        for block in self.blocks:
            x = block(x)
        return self.embed.attend(self.norm(x))


def make() -> flaxen.Definition:
    model, params = flaxen.from_nnx(MyModel(nnx.Rngs(0)), max_position=512)
    return flaxen.Definition(model=model, params=params, tokenizer="smollm2-135m", name="my-model")
