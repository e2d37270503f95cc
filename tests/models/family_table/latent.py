"""The rows of the families with latent attention."""

from __future__ import annotations

from typing import Any

from tests.models.family_table.row import Row

_SIZES: dict[str, Any] = {
    "hidden_size": 36,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "kv_lora_rank": 14,
    "q_lora_rank": 20,
    "qk_rope_head_dim": 6,
    "qk_nope_head_dim": 10,
    "v_head_dim": 12,
    "moe_intermediate_size": 20,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "mscale": 0.8,
    "mscale_all_dim": 0.9,
}
_GROUPS = {"n_group": 4, "topk_group": 2}

ROWS = (
    Row(
        name="deepseek_v2",
        gguf={"rope_parameters": {**_YARN, "mscale": 0.9}},
        family="DeepSeek V2",
        model="DeepseekV2ForCausalLM",
        features="latent attention; experts by softmax, in groups, beside shared ones; yarn",
        fields={
            **_SIZES,
            **_GROUPS,
            "topk_method": "group_limited_greedy",
            "routed_scaling_factor": 1.7,
            "rope_parameters": _YARN,
        },
    ),
    Row(
        name="deepseek_v2_lite",
        gguf={},
        family="DeepSeek V2 Lite",
        model="DeepseekV2ForCausalLM",
        features="queries that are not compressed, experts in every layer",
        fields={**_SIZES, "q_lora_rank": None, "first_k_dense_replace": 0},
        seed=1,
    ),
    Row(
        name="deepseek_v3",
        gguf={"attention_bias": False, "rope_parameters": {**_YARN, "mscale": 0.9}},
        family="DeepSeek V3, V3.1, R1",
        model="DeepseekV3ForCausalLM",
        features="latent attention; experts by sigmoid with a bias, in groups; biases",
        fields={**_SIZES, **_GROUPS, "rope_parameters": _YARN, "attention_bias": True},
    ),
    Row(
        name="deepseek_v3_halves",
        family="DeepSeek V3",
        model="DeepseekV3ForCausalLM",
        features="rope by halves, one group, weights of experts as they are",
        fields={
            **_SIZES,
            "n_group": 1,
            "topk_group": 1,
            "q_lora_rank": None,
            "rope_interleave": False,
            "norm_topk_prob": False,
        },
    ),
    Row(
        name="glm4_moe_lite",
        gguf={"mlp_layer_types": ["dense", "sparse"], "rope_parameters": {**_YARN, "mscale": 0.9}},
        family="GLM-4-MoE-lite (GLM-4.7-Flash)",
        model="Glm4MoeLiteForCausalLM",
        features="DeepSeek V3's layers, with dense ones anywhere",
        fields={**_SIZES, "mlp_layer_types": ["sparse", "dense"], "rope_parameters": _YARN},
    ),
)
