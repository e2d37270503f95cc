"""Makes the tiny checkpoints in goldens/ and what transformers computes with them.

Run it by hand, in an environment of its own, when a case is added; its results are committed.
Without the names of cases it makes all of them anew:

    python -m venv hf && hf/bin/pip install torch==2.13.0 transformers==5.23.0 safetensors numpy
    hf/bin/python tests/models/make_goldens.py seed_oss_biases seed_oss_out_biases

Each case is a directory: config.json and model.safetensors as transformers writes them, and
expected.npz with 40 `tokens` and the float32 `logits` [40, V] of each position. The weights are
random, and large enough that leaving out any feature changes the logits.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SeedOssConfig,
    SeedOssForCausalLM,
)

NUM_TOKENS = 40
SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-3,
    "tie_word_embeddings": False,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 2.0,
    "beta_slow": 0.5,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
WINDOWS = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
CASES: dict[str, tuple[type, type, dict[str, Any]]] = {
    "llama_default": (LlamaConfig, LlamaForCausalLM, {"head_dim": 16}),
    "llama_linear": (LlamaConfig, LlamaForCausalLM, {"rope_parameters": LINEAR}),
    "llama_llama3": (LlamaConfig, LlamaForCausalLM, {"rope_parameters": LLAMA3}),
    "llama_yarn": (LlamaConfig, LlamaForCausalLM, {"rope_parameters": YARN, "head_dim": 16}),
    "llama_tied_biases": (
        LlamaConfig,
        LlamaForCausalLM,
        {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "mistral_window": (MistralConfig, MistralForCausalLM, {"sliding_window": 8}),
    "qwen2_biases": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen2_windows": (Qwen2Config, Qwen2ForCausalLM, {**WINDOWS, "num_hidden_layers": 3}),
    "qwen3_tied": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3_biases_windows": (
        Qwen3Config,
        Qwen3ForCausalLM,
        {**WINDOWS, "head_dim": 16, "attention_bias": True},
    ),
    "seed_oss_biases": (SeedOssConfig, SeedOssForCausalLM, {"head_dim": 16}),
    "seed_oss_out_biases": (
        SeedOssConfig,
        SeedOssForCausalLM,
        {"head_dim": 16, "attention_bias": False, "attention_out_bias": True, "mlp_bias": True},
    ),
}


def randomize(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Weights that keep the activations near 1, norms around 1, biases that matter."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            parameter.data = 1 + 0.3 * noise
        elif name.endswith("bias"):
            parameter.data = 0.5 * noise
        elif "embed_tokens" in name:
            parameter.data = noise
        else:
            parameter.data = 1.5 * noise / parameter.shape[1] ** 0.5


def main(cases: list[str]) -> None:
    """Writes these cases anew, or all if none is named."""
    root = Path(__file__).parent / "goldens"
    for seed, (case, (config_type, model_type, options)) in enumerate(CASES.items()):
        if cases and case not in cases:
            continue
        config = config_type(**{**SIZES, **options}, attn_implementation="eager")
        model = model_type(config).to(torch.float32).eval()
        generator = torch.Generator().manual_seed(seed)
        randomize(model, generator)
        model.tie_weights()
        tokens = torch.randint(0, config.vocab_size, (NUM_TOKENS,), generator=generator)
        with torch.no_grad():
            logits = model(tokens[None]).logits[0]
        directory = root / case
        shutil.rmtree(directory, ignore_errors=True)
        model.save_pretrained(directory)
        (directory / "generation_config.json").unlink(missing_ok=True)
        np.savez_compressed(
            directory / "expected.npz",
            tokens=tokens.numpy().astype(np.int32),
            logits=logits.numpy().astype(np.float32),
        )
        print(f"{case}: logits {tuple(logits.shape)}, spread {float(logits.std()):.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
