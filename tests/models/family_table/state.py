"""The rows of the families whose layers keep a state beside attention, or in place of it."""

from __future__ import annotations

from tests.models.family_table.row import Row

# Sizes of the table that a model without attention does not have.
ATTENTION = (
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
)
GRANITE = {
    "num_hidden_layers": 3,
    "num_local_experts": 0,
    "num_experts_per_tok": 0,
    "shared_intermediate_size": 56,
    "mamba_n_heads": 6,
    "mamba_d_head": 16,
    "mamba_n_groups": 2,
    "mamba_d_state": 10,
    "mamba_d_conv": 3,
    "mamba_chunk_size": 8,
    "embedding_multiplier": 3.0,
    "logits_scaling": 0.5,
    "residual_multiplier": 0.6,
    "attention_multiplier": 0.2,
}
DELTA = {
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 12,
    "linear_value_head_dim": 10,
    "linear_conv_kernel_dim": 3,
}

ROWS = (
    Row(
        name="lfm2_conv",
        family="LFM2",
        model="Lfm2ForCausalLM",
        features="gated short convolutions with attention between them; a norm of each head",
        fields={
            "layer_types": ["conv", "full_attention", "conv"],
            "num_hidden_layers": 3,
            "conv_L_cache": 4,
            "conv_bias": True,
            "norm_eps": 1e-3,
            "block_auto_adjust_ff_dim": False,
        },
        without=("rms_norm_eps",),
    ),
    Row(
        name="lfm2_adjusted_tied",
        family="LFM2",
        model="Lfm2ForCausalLM",
        features="tied embeddings, an MLP whose size is adjusted",
        fields={
            "full_attn_idxs": [0],
            "tie_word_embeddings": True,
            "block_multiple_of": 8,
            "block_ffn_dim_multiplier": 1.3,
        },
        without=("rms_norm_eps",),
    ),
    Row(
        name="mamba2_groups",
        family="Mamba-2",
        model="Mamba2ForCausalLM",
        features="a state space alone, without attention or an MLP",
        fields={
            "num_heads": 6,
            "head_dim": 16,
            "n_groups": 2,
            "state_size": 10,
            "conv_kernel": 3,
            "use_bias": True,
            "layer_norm_epsilon": 1e-3,
            "chunk_size": 8,
        },
        without=(*ATTENTION, "rms_norm_eps"),
    ),
    Row(
        name="mamba2_limits_tied",
        family="Mamba-2",
        model="Mamba2ForCausalLM",
        features="limits of the time step, tied embeddings",
        fields={
            "num_heads": 12,
            "head_dim": 8,
            "n_groups": 1,
            "state_size": 16,
            "use_conv_bias": False,
            "time_step_limit": (0.2, 1.5),
            "tie_word_embeddings": True,
            "chunk_size": 64,
        },
        without=(*ATTENTION, "rms_norm_eps"),
    ),
    Row(
        name="granitemoehybrid_dense",
        family="Granite 4",
        model="GraniteMoeHybridForCausalLM",
        features="Mamba-2 with attention between; Granite's scalars; no positions",
        fields={
            **GRANITE,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "position_embedding_type": None,
        },
    ),
    Row(
        name="granitemoehybrid_rope_tied",
        family="Granite 4",
        model="GraniteMoeHybridForCausalLM",
        features="rope, tied embeddings, biases",
        fields={
            **GRANITE,
            "num_hidden_layers": 2,
            "layer_types": ["full_attention", "linear_attention"],
            "position_embedding_type": "rope",
            "attention_bias": True,
            "mamba_proj_bias": True,
            "mamba_conv_bias": False,
            "tie_word_embeddings": True,
        },
    ),
    Row(
        name="granitemoehybrid_experts",
        family="Granite 4",
        model="GraniteMoeHybridForCausalLM",
        features="experts with shared ones",
        fields={
            **GRANITE,
            "num_hidden_layers": 2,
            "layer_types": ["linear_attention", "full_attention"],
            "intermediate_size": 24,
            "num_local_experts": 5,
            "num_experts_per_tok": 2,
        },
    ),
    Row(
        name="qwen3_next_experts",
        family="Qwen3-Next",
        model="Qwen3NextForCausalLM",
        features="gated delta nets with gated attention between; experts with gated shared ones",
        fields={
            **DELTA,
            "layer_types": ["linear_attention", "full_attention"],
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 40,
            "norm_topk_prob": True,
        },
    ),
    Row(
        name="qwen3_next_dense_tied",
        family="Qwen3-Next",
        model="Qwen3NextForCausalLM",
        features="no experts, every second layer with attention, biases, tied embeddings",
        fields={
            **DELTA,
            "linear_num_key_heads": 1,
            "linear_value_head_dim": 16,
            "partial_rotary_factor": 0.5,
            "full_attention_interval": 2,
            "attention_bias": True,
            "num_experts": 0,
            "tie_word_embeddings": True,
        },
    ),
)
