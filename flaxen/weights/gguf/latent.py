"""Converts the metadata of GGUF files with latent attention (llama.cpp's deepseek2) to the fields
of a config.json, and chooses the rules of their tensors.

There are two generations: the first has one tensor that makes keys and values of latents, the
second one for each, and sizes of both forms of the heads. Deliberately does not know families,
which read the fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from flaxen.families.latent_tensors import GGUF_LATENT_ONE
from flaxen.families.rules import Rules, with_rules
from flaxen.weights.gguf.reader import GgufFile

ARCHITECTURE = "deepseek2"
_PREFIX = ARCHITECTURE + "."
# By expert_gating_func, which the oldest files do not have.
_FAMILIES = {None: "DeepseekV2ForCausalLM", 1: "DeepseekV2ForCausalLM", 2: "DeepseekV3ForCausalLM"}

_FIELDS: Mapping[str, str] = {  # metadata key, after the architecture -> config.json field
    "vocab_size": "vocab_size",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.q_lora_rank": "q_lora_rank",
    "attention.kv_lora_rank": "kv_lora_rank",
    "context_length": "max_position_embeddings",
    "rope.freq_base": "rope_theta",
    "rope.dimension_count": "qk_rope_head_dim",
    "leading_dense_block_count": "first_k_dense_replace",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_count": "n_routed_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_shared_count": "n_shared_experts",
    "expert_weights_scale": "routed_scaling_factor",
    "expert_weights_norm": "norm_topk_prob",
    "expert_group_count": "n_group",
    "expert_group_used_count": "topk_group",
}
_READ_APART = {
    "attention.head_count_kv", "attention.key_length", "attention.value_length",
    "attention.key_length_mla", "attention.value_length_mla", "expert_gating_func",
    "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length",
    "rope.scaling.yarn_log_multiplier", "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow", "rope.scaling.finetuned",
}  # fmt: skip
_REQUIRED = (
    "embedding_length", "feed_forward_length", "block_count", "attention.head_count",
    "attention.layer_norm_rms_epsilon", "attention.kv_lora_rank", "attention.key_length",
    "attention.value_length", "context_length", "rope.dimension_count",
)  # fmt: skip


def config_fields(file: GgufFile) -> dict[str, Any]:
    """The fields of a config.json with the meaning of the metadata, with `architectures`.

    Raises:
      ValueError: a metadata key or value is missing or not supported; the message names it.
    """
    own = {k[len(_PREFIX) :]: v for k, v in file.metadata.items() if k.startswith(_PREFIX)}
    for key, value in own.items():
        if key not in _FIELDS and key not in _READ_APART:
            raise ValueError(
                f"metadata {_PREFIX}{key} = {value!r} is not supported, and leaving it out would "
                "change the result"
            )
    for key in _REQUIRED:
        if not isinstance(own.get(key), int | float) or not own[key] > 0:
            raise ValueError(
                f"metadata {_PREFIX}{key} must be a number above 0, got {own.get(key)!r}"
            )
    gating = own.get("expert_gating_func")
    if gating not in _FAMILIES:
        raise ValueError(
            f"metadata {_PREFIX}expert_gating_func = {gating!r} is not supported: 1 (softmax) and "
            "2 (sigmoid) are"
        )
    key_dim = own.get("attention.key_length_mla", own["attention.key_length"])
    fields = {field: own[key] for key, field in _FIELDS.items() if key in own}
    fields.setdefault("vocab_size", file.tensors["token_embd.weight"].shape[0])
    defaults = {"first_k_dense_replace": 0, "norm_topk_prob": False, "routed_scaling_factor": 1.0}
    groups = {
        "n_group": own.get("expert_group_count", 1),
        "topk_group": fields.get("topk_group", 1),
    }
    return {
        **defaults,
        **fields,
        **groups,
        "architectures": [_FAMILIES[gating]],
        "topk_method": "greedy" if groups["n_group"] == 1 else "group_limited_greedy",
        "qk_nope_head_dim": key_dim - own["rope.dimension_count"],
        "v_head_dim": own.get("attention.value_length_mla", own["attention.value_length"]),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "rope_scaling": _rope_scaling(own),
    }


def _rope_scaling(own: Mapping[str, Any]) -> dict[str, Any] | None:
    """YaRN with equal factors on cosines and on scores, which is all that the files can say."""
    kind = own.get("rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind != "yarn":
        raise ValueError(
            f"metadata {_PREFIX}rope.scaling.type = {kind!r} is not supported: none and yarn are"
        )
    # The file has a tenth of it, in float32.
    mscale = float(np.float32(10 * own.get("rope.scaling.yarn_log_multiplier", 0.0)))
    return {
        "rope_type": "yarn",
        "factor": own.get("rope.scaling.factor"),
        "original_max_position_embeddings": own.get("rope.scaling.original_context_length"),
        "mscale": mscale,
        "mscale_all_dim": mscale,
        "beta_fast": own.get("rope.scaling.yarn_beta_fast"),
        "beta_slow": own.get("rope.scaling.yarn_beta_slow"),
    }


def rules_for(file: GgufFile, rules: Rules) -> Rules:
    """The family's rules, or those of the first generation of files."""
    if "blk.0.attn_kv_b.weight" not in file.tensors:
        return rules
    kept = tuple(rule for rule in rules if not {"w_uk", "w_uv"} & set(rule.params))
    return with_rules(kept, GGUF_LATENT_ONE[-1])
