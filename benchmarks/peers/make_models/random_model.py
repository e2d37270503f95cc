"""Writes a Hugging Face directory of a decoder with random weights and a 49,152 vocabulary.

Usage: random_model.py NAME TOKENIZER_DIRECTORY DIRECTORY. Runs in transformers' environment, of
which it uses torch and safetensors. The model's speed is a real one's; its text means nothing.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

SEED = 20261122
# The shape of Llama-3.2-1B.
LLAMA: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "bos_token_id": 1,
    "dtype": "bfloat16",
    "eos_token_id": 2,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pad_token_id": 2,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "vocab_size": 49_152,
}
# A Mixtral with 8 experts, 2 of them for each token: about 1B parameters in total.
MIXTRAL: Mapping[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "bos_token_id": 1,
    "dtype": "bfloat16",
    "eos_token_id": 2,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 2304,
    "max_position_embeddings": 8192,
    "num_attention_heads": 16,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 16,
    "num_key_value_heads": 4,
    "num_local_experts": 8,
    "pad_token_id": 2,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.02,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "vocab_size": 49_152,
}
CONFIGS = {"llama-1b-rand": LLAMA, "moe-1b-rand": MIXTRAL}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def main() -> None:
    """Writes the directory, with the tokenizer's files beside the model's."""
    name, tokenizer, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    config = CONFIGS[name]
    target.mkdir(parents=True, exist_ok=True)
    save_file(draw_tensors(config), target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for file in TOKENIZER_FILES:
        if (tokenizer / file).exists():
            shutil.copyfile(tokenizer / file, target / file)


def draw_tensors(config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Draws each matrix from one stream, so that the same seed gives the same file."""
    generator = torch.Generator().manual_seed(SEED)

    def draw(shape: tuple[int, int]) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * 0.02).to(torch.bfloat16)

    width, vocab = config["hidden_size"], config["vocab_size"]
    tensors = {"model.embed_tokens.weight": draw((vocab, width))}
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = draw((vocab, width))
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        for name, shape in layer_matrices(config).items():
            tensors[f"{layer}.{name}.weight"] = draw(shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}.{name}.weight"] = torch.ones(width, dtype=torch.bfloat16)
    tensors["model.norm.weight"] = torch.ones(width, dtype=torch.bfloat16)
    return tensors


def layer_matrices(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """The name and shape of each matrix of a layer, in the order in which they are drawn."""
    width, mlp_dim = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"] * config["head_dim"]
    kv_heads = config["num_key_value_heads"] * config["head_dim"]
    up, down = (mlp_dim, width), (width, mlp_dim)
    attention = {
        "self_attn.q_proj": (heads, width),
        "self_attn.k_proj": (kv_heads, width),
        "self_attn.v_proj": (kv_heads, width),
        "self_attn.o_proj": (width, heads),
    }
    if "num_local_experts" not in config:
        return attention | {"mlp.gate_proj": up, "mlp.up_proj": up, "mlp.down_proj": down}
    num_experts = config["num_local_experts"]
    experts = {
        f"block_sparse_moe.experts.{expert}.{name}": shape
        for expert in range(num_experts)
        for name, shape in {"w1": up, "w3": up, "w2": down}.items()
    }
    return attention | {"block_sparse_moe.gate": (num_experts, width)} | experts


if __name__ == "__main__":
    main()
