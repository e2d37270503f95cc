"""One network, defined in Flax NNX, in PyTorch and in plain JAX: each served, with the same tokens.

pip install 'flaxen[flax,torch]'
python examples/three_ways.py
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import flaxen
from flaxen.models.model import Model, Params

VOCAB, DIM, HEADS, MAX_POSITION = 49152, 64, 4, 256
RNG = np.random.default_rng(0)
WEIGHTS = {  # [in, out]; tables [tokens or positions, DIM]
    "embed": RNG.standard_normal((VOCAB, DIM)) / DIM**0.25,
    "position": RNG.standard_normal((MAX_POSITION, DIM)),
    "qkv": RNG.standard_normal((DIM, 3 * DIM)) / DIM**0.5,
    "out": RNG.standard_normal((DIM, DIM)) / DIM**0.5,
}


class InFlax(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(VOCAB, DIM, rngs=rngs)
        self.position = nnx.Embed(MAX_POSITION, DIM, rngs=rngs)
        self.qkv = nnx.Linear(DIM, 3 * DIM, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(DIM, DIM, use_bias=False, rngs=rngs)

    def __call__(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        x = self.embed(tokens) + self.position(positions)
        q, k, v = (
            each.reshape(*x.shape[:-1], HEADS, -1) for each in jnp.split(self.qkv(x), 3, axis=-1)
        )
        x = x + self.out(flaxen.attend(q, k, v).reshape(x.shape))
        return self.embed.attend(x)


class InTorch(torch.nn.Module):  # type: ignore[misc]  # where PyTorch is not installed
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(VOCAB, DIM)
        self.position = torch.nn.Embedding(MAX_POSITION, DIM)
        self.qkv = torch.nn.Linear(DIM, 3 * DIM, bias=False)
        self.out = torch.nn.Linear(DIM, DIM, bias=False)

    def forward(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens) + self.position(positions)
        q, k, v = (each.unflatten(-1, (HEADS, -1)) for each in self.qkv(x).chunk(3, dim=-1))
        x = x + self.out(flaxen.attend_torch(q, k, v).flatten(-2))
        scores: torch.Tensor = x @ self.embed.weight.T
        return scores


def in_jax(params: Params, tokens: jax.Array, positions: jax.Array) -> jax.Array:
    x = params["embed"][tokens] + params["position"][positions]
    q, k, v = (
        each.reshape(*x.shape[:-1], HEADS, -1) for each in jnp.split(x @ params["qkv"], 3, axis=-1)
    )
    x = x + flaxen.attend(q, k, v).reshape(x.shape) @ params["out"]
    scores: jax.Array = x @ params["embed"].T
    return scores


def three_ways() -> dict[str, tuple[Model, Params]]:
    weights = {name: jnp.asarray(each, jnp.float32) for name, each in WEIGHTS.items()}
    in_flax, in_torch = InFlax(nnx.Rngs(0)), InTorch()
    for name, each in weights.items():
        is_table = name in ("embed", "position")
        own = getattr(in_flax, name)
        nnx.update(own, {"embedding" if is_table else "kernel": each})
        parameter = getattr(in_torch, name).weight
        parameter.data = torch.from_numpy(np.array(each if is_table else each.T))
    return {
        "Flax": flaxen.from_nnx(in_flax, max_position=MAX_POSITION),
        "PyTorch": flaxen.from_torch(in_torch, max_position=MAX_POSITION),
        "JAX": (flaxen.from_function(in_jax, weights, max_position=MAX_POSITION), weights),
    }


def main() -> None:
    sampling = flaxen.SamplingParams(temperature=1, seed=0, max_tokens=12, ignore_eos=True)
    for name, (model, params) in three_ways().items():
        definition = flaxen.Definition(
            model=model, params=params, tokenizer="smollm2-135m", name=name
        )
        (output,) = flaxen.LLM(definition, max_num_seqs=2).generate("Once upon a time", sampling)
        print(f"{name:>8}: {output.outputs[0].token_ids}")


if __name__ == "__main__":
    main()
