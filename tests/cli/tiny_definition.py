"""A definition of the user's own in a file: a function of JAX, small and short."""

from __future__ import annotations

from pathlib import Path

from tests.bridges.words import save_tokenizer

MAX_POSITION = 48
_TEXT = """
import jax
import jax.numpy as jnp
import numpy as np
import flaxen
from pathlib import Path

VOCAB, DIM = 272, 32


def weights():
    rng = np.random.default_rng(0)

    def random(*shape):
        return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    layers = [
        {"qkv": random(DIM, 3 * DIM), "out": random(DIM, DIM), "up": random(DIM, 64),
         "down": random(64, DIM)}
        for _ in range(2)
    ]
    return {"embed": 4 * random(VOCAB, DIM), "places": random(MAX_POSITION, DIM), "layers": layers}


def norm(x):
    return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5)


def forward(params, tokens, positions):
    x = params["embed"][tokens] + params["places"][positions]
    for layer in params["layers"]:
        q, k, v = jnp.split(norm(x) @ layer["qkv"], 3, axis=-1)
        heads = (each.reshape(*x.shape[:-1], 2, 16) for each in (q, k, v))
        x = x + flaxen.attend(*heads).reshape(x.shape) @ layer["out"]
        x = x + jax.nn.gelu(norm(x) @ layer["up"]) @ layer["down"]
    return norm(x) @ params["embed"].T


def make():
    params = weights()
    model = flaxen.from_function(forward, params, max_position=MAX_POSITION)
    return flaxen.Definition(
        model=model, params=params, tokenizer=Path(__file__).parent, name="tiny"
    )
"""


def write_definition(directory: Path, max_position: int = MAX_POSITION) -> str:
    """Writes the file and a tokenizer of one token a byte. Returns it as MODEL, FILE.py:NAME."""
    directory.mkdir(parents=True, exist_ok=True)
    save_tokenizer(directory)
    file = directory / "tiny.py"
    file.write_text(f"MAX_POSITION = {max_position}\n{_TEXT}")
    return f"{file}:make"
