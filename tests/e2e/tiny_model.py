"""A model on disk that is tiny and knows nothing, and its tokenizer of one token a byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from flaxen.families import FAMILIES
from flaxen.models.decoder import decoder
from flaxen.weights.huggingface.export import export_huggingface
from tools.decoders import uniform_decoder

CONFIG = uniform_decoder(
    vocab_size=272,
    model_dim=64,
    mlp_dim=128,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    windows=(None, None),
    tied_embeddings=True,
    max_position=512,
)
TEMPLATE = (
    "{% for m in messages %}<turn>{{ m.role }}\n{{ m.content }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)


def write_tiny_model(directory: Path, seed: int = 0) -> Path:
    """Writes a Hugging Face directory of random weights. Returns it."""
    rng = np.random.default_rng(seed)

    def random(spec: Any) -> jax.Array:
        values = rng.standard_normal(spec.shape).astype(np.float32)
        norm = len(spec.shape) == 1
        return jnp.asarray(1 + 0.1 * values if norm else values * 2 / np.sqrt(spec.shape[0]))

    specs = decoder(CONFIG).param_specs
    params = jax.tree.map(random, specs, is_leaf=lambda x: not isinstance(x, dict | tuple))
    export_huggingface(directory, FAMILIES["llama"], CONFIG, params)

    vocab = {token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<eos>", "<turn>"])
    backend.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<eos>", "chat_template": TEMPLATE})
    )
    config = json.loads((directory / "config.json").read_text())
    config["eos_token_id"] = backend.token_to_id("<eos>")
    (directory / "config.json").write_text(json.dumps(config))
    return directory
