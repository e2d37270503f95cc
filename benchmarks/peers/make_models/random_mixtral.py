"""Writes a Hugging Face directory of a Mixtral with 8 experts, 2 of them for each token, about 1B
parameters in total, random weights and a 49,152 vocabulary.

Usage: random_mixtral.py TOKENIZER_DIRECTORY DIRECTORY. Runs in transformers' environment, of which
it uses torch and safetensors. Its speed is a real model's; its text means nothing.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

SEED = 20261122
LAYERS, WIDTH, MLP, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 16, 1024, 2304, 16, 4, 64, 49_152
EXPERTS, USED = 8, 2
CONFIG = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "bos_token_id": 1,
    "dtype": "bfloat16",
    "eos_token_id": 2,
    "head_dim": HEAD_DIM,
    "hidden_act": "silu",
    "hidden_size": WIDTH,
    "initializer_range": 0.02,
    "intermediate_size": MLP,
    "max_position_embeddings": 8192,
    "num_attention_heads": HEADS,
    "num_experts_per_tok": USED,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KV_HEADS,
    "num_local_experts": EXPERTS,
    "pad_token_id": 2,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.02,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "vocab_size": VOCAB,
}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def main() -> None:
    """Draws each matrix from one stream, so that the same seed gives the same file."""
    tokenizer, target = Path(sys.argv[1]), Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(SEED)

    def draw(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * 0.02).to(torch.bfloat16)

    tensors = {
        "model.embed_tokens.weight": draw(VOCAB, WIDTH),
        "lm_head.weight": draw(VOCAB, WIDTH),
    }
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        for name, shape in {
            "self_attn.q_proj": (HEADS * HEAD_DIM, WIDTH),
            "self_attn.k_proj": (KV_HEADS * HEAD_DIM, WIDTH),
            "self_attn.v_proj": (KV_HEADS * HEAD_DIM, WIDTH),
            "self_attn.o_proj": (WIDTH, HEADS * HEAD_DIM),
            "block_sparse_moe.gate": (EXPERTS, WIDTH),
            **{
                f"block_sparse_moe.experts.{expert}.{name}": shape
                for expert in range(EXPERTS)
                for name, shape in {
                    "w1": (MLP, WIDTH),
                    "w3": (MLP, WIDTH),
                    "w2": (WIDTH, MLP),
                }.items()
            },
        }.items():
            tensors[f"{layer}.{name}.weight"] = draw(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}.{name}.weight"] = torch.ones(WIDTH, dtype=torch.bfloat16)
    tensors["model.norm.weight"] = torch.ones(WIDTH, dtype=torch.bfloat16)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    for name in TOKENIZER_FILES:
        if (tokenizer / name).exists():
            shutil.copyfile(tokenizer / name, target / name)


if __name__ == "__main__":
    main()
