"""The rules of latent attention's tensors, which families share.

Deliberately does not know any family, or how the rules are carried out.
"""

from __future__ import annotations

from flaxen.families.rules import ByHead, Rules, Split, TensorRule, as_is, matrix

# A weight that makes keys and values of latents. Each head has its own part, and within it the rows
# of the key come first.
_STEPS = (
    Split(("nope_dim", "value_dim"), groups="num_heads"),
    ByHead("num_heads", turned=(False, True)),
)
_ATTENTION = "model.layers.{layer}.self_attn."

HF_LATENT: Rules = (
    matrix("wq_a", _ATTENTION + "q_a_proj.weight"),
    as_is("bq_a", _ATTENTION + "q_a_proj.bias"),
    as_is("q_a_norm", _ATTENTION + "q_a_layernorm.weight"),
    matrix("wq_b", _ATTENTION + "q_b_proj.weight"),
    matrix("wkv_a", _ATTENTION + "kv_a_proj_with_mqa.weight"),
    as_is("bkv_a", _ATTENTION + "kv_a_proj_with_mqa.bias"),
    as_is("kv_a_norm", _ATTENTION + "kv_a_layernorm.weight"),
    TensorRule(params=("w_uk", "w_uv"), tensors=(_ATTENTION + "kv_b_proj.weight",), steps=_STEPS),
)

_BLOCK = "blk.{layer}.attn_"
GGUF_LATENT: Rules = (
    matrix("wq_a", _BLOCK + "q_a.weight"),
    as_is("q_a_norm", _BLOCK + "q_a_norm.weight"),
    matrix("wq_b", _BLOCK + "q_b.weight"),
    matrix("wkv_a", _BLOCK + "kv_a_mqa.weight"),
    as_is("kv_a_norm", _BLOCK + "kv_a_norm.weight"),
    matrix("w_uk", _BLOCK + "k_b.weight"),
    matrix("w_uv", _BLOCK + "v_b.weight"),
)
# llama.cpp's converter wrote these tensors before it knew the absorbed form.
GGUF_LATENT_ONE: Rules = (
    *GGUF_LATENT[:-2],
    TensorRule(params=("w_uk", "w_uv"), tensors=(_BLOCK + "kv_b.weight",), steps=_STEPS),
)
