"""Many classes of transformers, tiny: logits are transformers' own, or one line says why not.

The longer prompt goes past each window, and is computed whole, in pieces and beside another.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from flaxen.bridges.torch.transformers import from_transformers
from tests.bridges.paged import Step, paged_scores

pytestmark = pytest.mark.slow

SIZES: dict[str, Any] = {
    "vocab_size": 272, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
HEADS = {**SIZES, "head_dim": 8}
WINDOW = {**SIZES, "sliding_window": 24}
HALF_WINDOW = {**WINDOW, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MLA = {  # values are narrower than keys
    **SIZES, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "v_head_dim": 8,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
GPT = {"vocab_size": 272, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
LLAMA4 = {
    **HEADS,
    "intermediate_size_mlp": 64,
    "num_local_experts": 2,
    "interleave_moe_layer_step": 2,
}
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
    "original_max_position_embeddings": 64, "factor": 2.0,
}  # fmt: skip

SERVED: dict[str, tuple[str, dict[str, Any]]] = {
    "Phimoe, window": ("Phimoe", {**WINDOW, "num_local_experts": 4}),
    "Qwen2Moe, window": ("Qwen2Moe", {
        **WINDOW, **MOE, "use_sliding_window": True, "max_window_layers": 0,
        "shared_expert_intermediate_size": 32,
    }),
    "Qwen2, window": ("Qwen2", {**WINDOW, "use_sliding_window": True, "max_window_layers": 1}),
    "Starcoder2, window": ("Starcoder2", WINDOW),
    "Mistral, window": ("Mistral", {**WINDOW, "head_dim": 8}),
    "Mixtral, window": ("Mixtral", {**WINDOW, "num_local_experts": 4}),
    "Phi3, window": ("Phi3", WINDOW),
    "Gemma3, half of the layers": ("Gemma3Text", HALF_WINDOW),
    "Cohere2, half of the layers": ("Cohere2", HALF_WINDOW),
    "Exaone4, half of the layers": ("Exaone4", HALF_WINDOW),
    "Olmo3, half of the layers": ("Olmo3", HALF_WINDOW),
    "SmolLM3, a layer without rope": ("SmolLM3", {**SIZES, "no_rope_layers": [1, 0]}),
    "GPTNeoX": ("GPTNeoX", {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}),
    "OPT": ("OPT", {**SIZES, "ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.0}),
    "Granite": ("Granite", SIZES),
    "GPTBigCode, one key head": ("GPTBigCode", GPT),
    "Llama, yarn": ("Llama", {**SIZES, "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0,
        "original_max_position_embeddings": 32,
    }}),
    "DeepseekV2, a complex rope": ("DeepseekV2", MLA),
    "DeepseekV3": ("DeepseekV3", MLA),
    "DiffLlama, attention twice a layer": ("DiffLlama", SIZES),
    "Llama 4, all layers see all": ("Llama4Text", {
        **LLAMA4, "attention_chunk_size": None, "layer_types": ["full_attention"] * 2,
    }),
    "Bert as a decoder": ("Bert", {**SIZES, "is_decoder": True}),
}  # fmt: skip

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "Bert": ("Bert", SIZES, "BertLMHeadModel is not causal: its tokens see later ones"),
    "Llama, not causal": ("Llama", {**SIZES, "is_causal": False}, "LlamaForCausalLM is not causal"),
    "Llama 4": (
        "Llama4Text", {**LLAMA4, "attention_chunk_size": 8},
        r"Llama4ForCausalLM's mask is neither causal nor a sliding window \(attention in chunks",
    ),
    "GptOss": (
        "GptOss", {**HEADS, "num_local_experts": 4}, "GptOssAttention's attention requires s_aux",
    ),
    "DeepseekV32": (
        "DeepseekV32", {**MLA, "index_head_dim": 8, "index_n_heads": 2, "index_topk": 8},
        "DeepseekV32Attention's attention requires indices, which is not supported",
    ),
    "Phi3, longrope": (
        "Phi3", {**SIZES, "rope_parameters": LONGROPE},
        "Phi3ForCausalLM's rope of kind 'longrope' is not supported: .* depend on other requests",
    ),
    "Llama, dynamic": (
        "Llama",
        {**SIZES, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
        "LlamaForCausalLM's rope of kind 'dynamic' is not supported",
    ),
    "Falcon": ("Falcon", SIZES, "FalconForCausalLM has 2 layers, and 0 of them call"),
    "Mpt": (
        "Mpt", {"vocab_size": 272, "d_model": 32, "n_heads": 4, "n_layers": 2},
        "MptForCausalLM has 2 layers, and 0 of them call transformers' registry",
    ),
    "Bloom": (
        "Bloom", {"vocab_size": 272, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        "BloomForCausalLM has 2 layers, and 0 of them call transformers' registry",
    ),
    "Mamba": ("Mamba", SIZES, "MambaForCausalLM has layers with a recurrent state"),
    "Mamba2": (
        "Mamba2", {**SIZES, "num_heads": 4, "head_dim": 16, "n_groups": 1, "state_size": 8},
        "Mamba2ForCausalLM has layers with a recurrent state",
    ),
    "FalconH1": (
        "FalconH1", {**SIZES, "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16},
        r"FalconH1ForCausalLM has layers with a recurrent state",
    ),
    "Lfm2": (
        "Lfm2", {**SIZES, "layer_types": ["conv", "full_attention"]},
        r"Lfm2ForCausalLM has layers with a recurrent state \(layer_types has conv\)",
    ),
    "Gemma 3n": (
        "Gemma3nText",
        {
            **HEADS, "layer_types": ["full_attention"] * 2, "vocab_size_per_layer_input": 272,
            "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0, "laurel_rank": 4,
            "activation_sparsity_pattern": [0.0] * 2,
        },
        "Gemma3nForCausalLM can't be traced by torchax: .*",
    ),
    "Doge": ("Doge", SIZES, "DogeAttention's attention comes with a mask of its own"),
}  # fmt: skip


def make(name: str, fields: dict[str, Any]) -> transformers.PreTrainedModel:
    """The same weights at each call, strong enough to tell tokens apart."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**fields)
    module = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    return module


@pytest.mark.parametrize("row", SERVED)
def test_logits_are_those_of_transformers(row: str) -> None:
    module = make(*SERVED[row])
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 256, length) for length in (44, 11)]
    with torch.no_grad():
        expected = [module(torch.from_numpy(each)[None]).logits[0].numpy() for each in prompts]
    model, params = from_transformers(module, checks=False)
    whole: list[Step] = [[(0, 0, 44)], [(1, 0, 11)]]
    in_pieces: list[Step] = [[(1, 0, 11), (0, 0, 20)], [(0, 20, 43)], [(0, 43, 44)]]
    for steps in (whole, in_pieces):
        for ours, theirs in zip(paged_scores(model, params, prompts, steps), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("row", REFUSED)
def test_what_cannot_be_served_is_refused_in_one_line(row: str) -> None:
    name, fields, message = REFUSED[row]
    with pytest.raises(ValueError, match=message) as caught:
        from_transformers(make(name, fields))
    assert "\n" not in str(caught.value)
