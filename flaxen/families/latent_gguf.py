"""GGUF's metadata of latent attention (llama.cpp's deepseek2), which families share.

There are two generations of files: the first has one tensor that makes keys and values of latents,
the second one for each, and the sizes of both forms of the heads. Deliberately does not know any
family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from flaxen.families import expert_fields, expert_tensors
from flaxen.families.latent_tensors import GGUF_LATENT, GGUF_LATENT_ONE
from flaxen.families.rules import Rules, with_rules

GATINGS = {"softmax": 1, "sigmoid": 2}  # scoring_func -> expert_gating_func

RULES: Rules = with_rules(expert_tensors.GGUF_EXPERTS, *GGUF_LATENT)
VARIANTS: Mapping[str, Rules] = {
    **expert_tensors.GGUF_VARIANTS,
    "attn_kv_b.weight": GGUF_LATENT_ONE[-1:],
}
FIELDS: Mapping[str, str] = {
    **expert_fields.GGUF_GROUPED,
    "attention.q_lora_rank": "q_lora_rank",
    "attention.kv_lora_rank": "kv_lora_rank",
    "attention.key_length": "key_length",
    "attention.value_length": "value_length",
    "attention.key_length_mla": "mla_key_length",
    "attention.value_length_mla": "mla_value_length",
    "rope.dimension_count": "qk_rope_head_dim",
    "rope.scaling.yarn_log_multiplier": "log_multiplier",
}
REQUIRED = (
    "embedding_length", "feed_forward_length", "block_count", "attention.head_count",
    "context_length", "attention.kv_lora_rank", "attention.key_length", "attention.value_length",
    "rope.dimension_count",
)  # fmt: skip


def implied(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of config.json that follow from those of the metadata.

    Raises:
      ValueError: a value is not supported.
    """
    if fields.get("gating") not in (None, *GATINGS.values()):
        raise ValueError(
            f"metadata deepseek2.expert_gating_func = {fields['gating']!r} is not supported: 1 "
            "(softmax) and 2 (sigmoid) are"
        )
    found = {**expert_fields.GGUF_GROUPED_DEFAULTS, **fields}
    key_dim = fields.get("mla_key_length", fields["key_length"])
    return {
        **found,
        "head_dim": None,
        "num_key_value_heads": fields["num_attention_heads"],
        "topk_method": "greedy" if found["n_group"] == 1 else "group_limited_greedy",
        "qk_nope_head_dim": key_dim - fields["qk_rope_head_dim"],
        "v_head_dim": fields.get("mla_value_length", fields["value_length"]),
        "rope_scaling": _rope_scaling(fields),
    }


def _rope_scaling(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """YaRN with equal factors on cosines and on scores, which is all that the files can say."""
    scaling = fields["rope_scaling"]
    if scaling is None:
        return None
    if scaling["rope_type"] != "yarn":
        raise ValueError(
            f"metadata deepseek2.rope.scaling.type = {scaling['rope_type']!r} is not supported: "
            "none and yarn are"
        )
    # The file has a tenth of it, in float32.
    mscale = float(np.float32(10 * fields.get("log_multiplier", 0.0)))
    return {**scaling, "mscale": mscale, "mscale_all_dim": mscale}


def keys(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse: keys of the second generation."""
    rank, rope = fields["kv_lora_rank"], fields["qk_rope_head_dim"]
    factor = (fields.get("rope_scaling") or {}).get("mscale_all_dim")
    return {
        "attention.head_count_kv": 1,
        "attention.key_length": rank + rope,
        "attention.value_length": rank,
        "attention.key_length_mla": fields["qk_nope_head_dim"] + rope,
        "attention.value_length_mla": fields["v_head_dim"],
        "expert_gating_func": GATINGS[fields["scoring_func"]],
        "rope.scaling.yarn_log_multiplier": factor and 0.1 * factor,
    }
