"""The rows of the families with experts."""

from __future__ import annotations

from tests.models.family_table.row import Row

GRANITE = {
    "intermediate_size": 24,
    "num_local_experts": 5,
    "num_experts_per_tok": 3,
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.2,
    "residual_multiplier": 0.7,
    "logits_scaling": 0.4,
}

SCOUT_ROPE = {  # without wavelengths between the short ones and the long ones
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 16.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 1.0,
    "original_max_position_embeddings": 32,
}

ROWS = (
    Row(
        name="mixtral",
        gguf={},
        family="Mixtral",
        model="MixtralForCausalLM",
        features="experts in each layer, chosen by softmax; one sliding window",
        fields={
            "num_local_experts": 5,
            "num_experts_per_tok": 2,
            "head_dim": 16,
            "sliding_window": 8,
        },
    ),
    Row(
        name="qwen2_moe",
        gguf={"mlp_only_layers": []},
        family="Qwen1.5-MoE, Qwen2-MoE",
        model="Qwen2MoeForCausalLM",
        features="experts in some layers, and shared experts behind a gate; biases on query, key "
        "and value",
        fields={
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 20,
            "shared_expert_intermediate_size": 40,
            "mlp_only_layers": [0],
            "norm_topk_prob": False,
        },
    ),
    Row(
        name="qwen3_moe",
        gguf={"decoder_sparse_step": 1},
        family="Qwen3-MoE",
        model="Qwen3MoeForCausalLM",
        features="experts in some layers; a norm of each query and key head",
        fields={
            "num_experts": 7,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 20,
            "decoder_sparse_step": 2,
            "norm_topk_prob": True,
            "head_dim": 16,
            "num_hidden_layers": 3,
        },
    ),
    Row(
        name="olmoe",
        gguf={},
        family="OLMoE",
        model="OlmoeForCausalLM",
        features="experts in each layer; norms over all query and key heads as one",
        fields={"num_experts": 6, "num_experts_per_tok": 2, "intermediate_size": 24},
    ),
    Row(
        name="granite_moe",
        gguf={},
        family="Granite-MoE",
        model="GraniteMoeForCausalLM",
        features="experts in each layer; multipliers of embedding, scores, residuals and logits",
        fields=GRANITE,
    ),
    Row(
        name="granite_moe_shared",
        gguf={},
        family="Granite-MoE with shared experts",
        model="GraniteMoeSharedForCausalLM",
        features="the same with shared experts",
        fields={**GRANITE, "shared_intermediate_size": 40},
    ),
    Row(
        name="glm4_moe",
        gguf={},
        family="GLM-4.5, GLM-4.6",
        model="Glm4MoeForCausalLM",
        features="experts chosen by sigmoid in groups, with a bias; shared experts; rope over a "
        "part of a head",
        fields={
            "n_routed_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 20,
            "n_shared_experts": 2,
            "n_group": 3,
            "topk_group": 2,
            "routed_scaling_factor": 1.5,
            "first_k_dense_replace": 1,
            "head_dim": 16,
            "use_qk_norm": True,
            "attention_bias": True,
        },
    ),
    Row(
        name="gpt_oss",
        gguf={},
        family="GPT-OSS",
        model="GptOssForCausalLM",
        features="experts with biases and clamped gates; sinks in attention; windows on some "
        "layers; yarn",
        fields={
            "num_local_experts": 5,
            "num_experts_per_tok": 2,
            "head_dim": 16,
            "sliding_window": 8,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 32,
                "truncate": False,
            },
        },
    ),
    Row(
        name="llama4",
        gguf={
            "num_hidden_layers": 4,
            "no_rope_layers": None,
            "attention_chunk_size": 8192,
            "floor_scale": 8192,
            "rope_parameters": {**SCOUT_ROPE, "original_max_position_embeddings": 8192},
        },
        family="Llama 4, text",
        model="Llama4ForCausalLM",
        features="experts whose inputs are scaled, and a shared one, in some layers; attention "
        "over chunks; layers without rope, whose queries grow with their position",
        fields={
            "num_local_experts": 5,
            "num_experts_per_tok": 2,
            "intermediate_size": 40,
            "intermediate_size_mlp": 56,
            "interleave_moe_layer_step": 2,
            "attention_chunk_size": 8,
            "rope_parameters": SCOUT_ROPE,
            "no_rope_layers": [1, 0],
            "floor_scale": 4,
            "head_dim": 16,
        },
    ),
)
