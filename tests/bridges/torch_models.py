"""Tiny models of PyTorch with random weights: transformers' classes, and one of its own."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from flaxen.bridges.torch.attend import attend_torch

_SIZES: dict[str, Any] = {
    "vocab_size": 272,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
_GPT = {"vocab_size": 272, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

CONFIGS: dict[str, dict[str, Any]] = {
    "Llama": {**_SIZES, "tie_word_embeddings": True},
    "Qwen3": {**_SIZES, "head_dim": 16},
    "Gemma2": {**_SIZES, "head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 24},
    "Phi3": _SIZES,
    "GPT2": _GPT,
    "Olmo2": _SIZES,
    "GPTNeoX": {key: value for key, value in _SIZES.items() if key != "num_key_value_heads"},
    "Qwen3Moe": {**_SIZES, "head_dim": 16, **_MOE},
    "Bloom": {"vocab_size": 272, "hidden_size": 64, "n_layer": 2, "n_head": 4},
}


def make(name: str) -> transformers.PreTrainedModel:
    """The same weights at each call, strong enough to tell words apart."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**CONFIGS[name])
    suffix = "LMHeadModel" if name == "GPT2" else "ForCausalLM"
    module = getattr(transformers, name + suffix)(config).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    return module


class Own(torch.nn.Module):
    """A module that transformers does not know."""

    def __init__(self, *, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(272, 64)
        self.position = torch.nn.Embedding(128, 64)
        self.qkv = torch.nn.Linear(64, 3 * 64)
        self.out = torch.nn.Linear(64, 64)
        self.norm = torch.nn.LayerNorm(64)
        self.dropout = dropout

    def forward(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens) + self.position(positions)
        q, k, v = (each.unflatten(-1, (4, 16)) for each in self.qkv(self.norm(x)).chunk(3, dim=-1))
        h = self.out(attend_torch(q, k, v).flatten(-2))
        x = x + torch.nn.functional.dropout(h, self.dropout, self.training)
        return self.norm(x) @ self.embed.weight.T
