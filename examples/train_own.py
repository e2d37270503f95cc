"""Three networks of one's own, in Flax NNX, PyTorch and plain JAX, each trained in a few lines.

    pip install 'flaxen[flax,torch]'
    python examples/train_own.py            # all three; or name some: flax torch jax

The texts are made here: sums in words. Each network learns them in a few seconds, gets its trained
weights back, and answers. The one of Flax is also saved.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flaxen

VOCAB, DIM, HEADS, LENGTH = 49152, 64, 4, 128
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
TEXTS = [f"{WORDS[a]} plus {WORDS[b]} is {WORDS[a + b]}" for a in range(9) for b in range(3)]
SETTINGS: dict[str, Any] = {
    "tokenizer": "smollm2-135m",  # the name of a model that has it, or a directory
    "method": "full",
    "learning_rate": 1e-2,
}


def train_flax(epochs: int, directory: Path) -> str:
    from flax import nnx

    class Network(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.embed = nnx.Embed(VOCAB, DIM, rngs=rngs)
            self.position = nnx.Embed(LENGTH, DIM, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(HEADS, DIM, decode=False, rngs=rngs)
            self.up = nnx.Linear(DIM, 4 * DIM, rngs=rngs)
            self.down = nnx.Linear(4 * DIM, DIM, rngs=rngs)

        def __call__(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
            x = self.embed(tokens) + self.position(positions)
            x = x + self.attention(x, mask=nnx.make_causal_mask(tokens))
            x = x + self.down(nnx.gelu(self.up(x)))
            return self.embed.attend(x)

    module = Network(nnx.Rngs(0))
    model, params = flaxen.from_nnx(module, max_position=LENGTH)
    result = flaxen.train(model, params, TEXTS, epochs=epochs, **SETTINGS)
    result.update(module)  # the module computes with the trained weights now
    result.save(directory)
    return answer(result)


def train_torch(epochs: int) -> str:
    import torch

    class Network(torch.nn.Module):  # type: ignore[misc]  # where PyTorch is not installed
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(VOCAB, DIM)
            self.position = torch.nn.Embedding(LENGTH, DIM)
            self.qkv = torch.nn.Linear(DIM, 3 * DIM)
            self.out = torch.nn.Linear(DIM, DIM)
            self.up = torch.nn.Linear(DIM, 4 * DIM)
            self.down = torch.nn.Linear(4 * DIM, DIM)
            self.head = torch.nn.Linear(DIM, VOCAB)

        def forward(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            x = self.embed(tokens) + self.position(positions)
            heads = (each.unflatten(-1, (HEADS, -1)) for each in self.qkv(x).chunk(3, dim=-1))
            x = x + self.out(flaxen.attend_torch(*heads).flatten(-2))
            x = x + self.down(torch.nn.functional.gelu(self.up(x)))
            logits: torch.Tensor = self.head(x)
            return logits

    torch.manual_seed(0)
    module = Network()
    model, params = flaxen.from_torch(module, max_position=LENGTH)
    result = flaxen.train(model, params, TEXTS, epochs=epochs, **SETTINGS)
    result.update(module)
    return answer(result)


def train_jax(epochs: int) -> str:
    def network(params: Any, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        x = params["embed"][tokens] + params["position"][positions]
        q, k, v = (
            each.reshape(*x.shape[:-1], HEADS, -1)
            for each in jnp.split(x @ params["qkv"], 3, axis=-1)
        )
        x = x + flaxen.attend(q, k, v).reshape(x.shape) @ params["out"]
        x = x + jax.nn.gelu(x @ params["up"]) @ params["down"]
        logits: jax.Array = x @ params["embed"].T
        return logits

    rng = np.random.default_rng(0)
    shapes = {
        "embed": (VOCAB, DIM), "position": (LENGTH, DIM), "qkv": (DIM, 3 * DIM),
        "out": (DIM, DIM), "up": (DIM, 4 * DIM), "down": (4 * DIM, DIM),
    }  # fmt: skip
    params = {
        name: jnp.asarray(rng.standard_normal(shape) * shape[-1] ** -0.5, jnp.float32)
        for name, shape in shapes.items()
    }
    model = flaxen.from_function(network, params, max_position=LENGTH)
    result = flaxen.train(model, params, TEXTS, epochs=epochs, **SETTINGS)
    return answer(result)  # result.params is a tree like params


def answer(result: Any) -> str:
    first, last = (result.metrics[index]["loss"] for index in (0, -1))
    llm = flaxen.LLM(result.definition, max_num_seqs=1)
    prompt = "four plus two is"
    (output,) = llm.generate(prompt, flaxen.SamplingParams(temperature=0, max_tokens=4))
    return f"loss {first:.2f} -> {last:.2f}: {prompt}{output.outputs[0].text}"


def main(names: list[str], epochs: int = 20, directory: Path = Path("trained-own")) -> None:
    trained = {
        "flax": lambda: train_flax(epochs, directory),
        "torch": lambda: train_torch(epochs),
        "jax": lambda: train_jax(epochs),
    }
    for name in names or trained:
        print(f"{name:>5}: {trained[name]()}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
