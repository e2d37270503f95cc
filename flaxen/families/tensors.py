"""The rules that families share: Hugging Face's names of a decoder's tensors, and GGUF's.

A rule is used only if the model has its parameters, so that biases and head norms are in the table
of all families. Deliberately does not know any family, or how the rules are carried out.
"""

from __future__ import annotations

from dataclasses import replace

from flaxen.families.rules import (
    Interleave,
    PlusOne,
    Rules,
    Split,
    TensorRule,
    as_is,
    matrix,
    with_rules,
    with_steps,
)

HF: Rules = (
    as_is("embed", "model.embed_tokens.weight"),
    as_is("final_norm", "model.norm.weight"),
    as_is("final_norm_bias", "model.norm.bias"),
    as_is("unembed", "lm_head.weight"),
    as_is("unembed_bias", "lm_head.bias"),
    as_is("attn_norm", "model.layers.{layer}.input_layernorm.weight"),
    as_is("attn_norm_bias", "model.layers.{layer}.input_layernorm.bias"),
    matrix("wq", "model.layers.{layer}.self_attn.q_proj.weight"),
    as_is("bq", "model.layers.{layer}.self_attn.q_proj.bias"),
    matrix("wk", "model.layers.{layer}.self_attn.k_proj.weight"),
    as_is("bk", "model.layers.{layer}.self_attn.k_proj.bias"),
    matrix("wv", "model.layers.{layer}.self_attn.v_proj.weight"),
    as_is("bv", "model.layers.{layer}.self_attn.v_proj.bias"),
    matrix("wo", "model.layers.{layer}.self_attn.o_proj.weight"),
    as_is("bo", "model.layers.{layer}.self_attn.o_proj.bias"),
    as_is("q_norm", "model.layers.{layer}.self_attn.q_norm.weight"),
    as_is("k_norm", "model.layers.{layer}.self_attn.k_norm.weight"),
    as_is("mlp_norm", "model.layers.{layer}.post_attention_layernorm.weight"),
    as_is("mlp_norm_bias", "model.layers.{layer}.post_attention_layernorm.bias"),
    matrix("w_gate", "model.layers.{layer}.mlp.gate_proj.weight"),
    as_is("b_gate", "model.layers.{layer}.mlp.gate_proj.bias"),
    matrix("w_up", "model.layers.{layer}.mlp.up_proj.weight"),
    as_is("b_up", "model.layers.{layer}.mlp.up_proj.bias"),
    matrix("w_down", "model.layers.{layer}.mlp.down_proj.weight"),
    as_is("b_down", "model.layers.{layer}.mlp.down_proj.bias"),
)

# The same with norms after each part, alone or beside those before it.
HF_SANDWICH: Rules = with_rules(
    HF,
    as_is("attn_post_norm", "model.layers.{layer}.post_attention_layernorm.weight"),
    as_is("mlp_norm", "model.layers.{layer}.pre_feedforward_layernorm.weight"),
    as_is("mlp_post_norm", "model.layers.{layer}.post_feedforward_layernorm.weight"),
)

HF_FUSED_GATE_UP = TensorRule(
    params=("w_gate", "w_up"),
    tensors=("model.layers.{layer}.mlp.gate_up_proj.weight",),
    steps=(Split((1, 1)),),
    transposed=True,
)

GGUF: Rules = (
    as_is("embed", "token_embd.weight"),
    as_is("final_norm", "output_norm.weight"),
    as_is("final_norm_bias", "output_norm.bias"),
    as_is("unembed", "output.weight"),
    as_is("unembed_bias", "output.bias"),
    as_is("attn_norm", "blk.{layer}.attn_norm.weight"),
    as_is("attn_norm_bias", "blk.{layer}.attn_norm.bias"),
    matrix("wq", "blk.{layer}.attn_q.weight"),
    as_is("bq", "blk.{layer}.attn_q.bias"),
    matrix("wk", "blk.{layer}.attn_k.weight"),
    as_is("bk", "blk.{layer}.attn_k.bias"),
    matrix("wv", "blk.{layer}.attn_v.weight"),
    as_is("bv", "blk.{layer}.attn_v.bias"),
    matrix("wo", "blk.{layer}.attn_output.weight"),
    as_is("bo", "blk.{layer}.attn_output.bias"),
    as_is("q_norm", "blk.{layer}.attn_q_norm.weight"),
    as_is("k_norm", "blk.{layer}.attn_k_norm.weight"),
    as_is("mlp_norm", "blk.{layer}.ffn_norm.weight"),
    as_is("mlp_norm_bias", "blk.{layer}.ffn_norm.bias"),
    as_is("attn_post_norm", "blk.{layer}.post_attention_norm.weight"),
    as_is("mlp_post_norm", "blk.{layer}.post_ffw_norm.weight"),
    matrix("w_gate", "blk.{layer}.ffn_gate.weight"),
    as_is("b_gate", "blk.{layer}.ffn_gate.bias"),
    matrix("w_up", "blk.{layer}.ffn_up.weight"),
    as_is("b_up", "blk.{layer}.ffn_up.bias"),
    matrix("w_down", "blk.{layer}.ffn_down.weight"),
    as_is("b_down", "blk.{layer}.ffn_down.bias"),
)

# llama.cpp's converter puts the rows of queries and keys in the order of interleaved rope.
GGUF_INTERLEAVED: Rules = with_steps(GGUF, ("wq", "bq", "wk", "bk"), Interleave("head_dim"))

# The same with query, key and value in one tensor, one after another.
GGUF_QKV: Rules = with_rules(
    GGUF,
    TensorRule(
        params=("wq", "wk", "wv"),
        tensors=("blk.{layer}.attn_qkv.weight",),
        steps=(Split(("num_heads", "num_kv_heads", "num_kv_heads")),),
        transposed=True,
    ),
    TensorRule(
        params=("bq", "bk", "bv"),
        tensors=("blk.{layer}.attn_qkv.bias",),
        steps=(Split(("num_heads", "num_kv_heads", "num_kv_heads")),),
    ),
)

GGUF_FUSED_GATE_UP = replace(HF_FUSED_GATE_UP, tensors=("blk.{layer}.ffn_up.weight",))

# RMS norms of 1 + weight are stored with the 1.
GGUF_ONE_PLUS: Rules = with_steps(
    GGUF,
    ("attn_norm", "attn_post_norm", "mlp_norm", "mlp_post_norm", "q_norm", "k_norm", "final_norm"),
    PlusOne(),
)
