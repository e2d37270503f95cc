"""Models to plan: a config.json in a directory without weights, and the tiny model by hand."""

from __future__ import annotations

import json
from pathlib import Path

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
LLAMA_1B = {
    **LLAMA_8B,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "head_dim": 64,
    "tie_word_embeddings": True,
}


def config_only(directory: Path, fields: dict[str, object] = LLAMA_8B, **changed: object) -> Path:
    """A directory that has nothing but a config.json."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps({**fields, **changed}))
    return directory
