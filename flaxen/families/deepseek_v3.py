"""The DeepSeek V3 family, https://arxiv.org/abs/2412.19437: V3, V3.1 and R1. Latent attention, and
experts that are chosen by a sigmoid, a bias and groups.

Its layers for the prediction of several tokens are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.families import expert_fields, expert_tensors, hf, latent_gguf, latent_tensors
from flaxen.families.family import Family
from flaxen.families.hf_values import flag, require_present, whole
from flaxen.families.latent_fields import latent_config, latent_fields
from flaxen.families.rules import with_rules
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.latent_attention import LatentAttention


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    require_present(fields, "n_routed_experts", "moe_intermediate_size", "num_experts_per_tok")
    if fields.get("scoring_func") not in (None, "sigmoid"):
        raise ValueError(
            f"scoring_func = {fields['scoring_func']!r} is not supported in DeepSeek V3, whose "
            "experts are chosen by a sigmoid: is this a DeepseekV2ForCausalLM?"
        )
    interleaved = fields.get("rope_interleave") is None or flag(fields, "rope_interleave")
    config = latent_config(fields, interleaved=interleaved, reads=("n_routed_experts",))
    step = whole(fields, "moe_layer_freq", default=1)
    is_late = expert_fields.first_dense(fields)
    return expert_fields.with_experts(
        config,
        expert_fields.grouped_experts(fields),
        lambda number: is_late(number) and number % step == 0,
    )


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    return {
        **latent_fields(config),
        **expert_fields.grouped_fields(config),
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "rope_interleave": hf.first(config, LatentAttention).rope.interleaved,
    }


FAMILY = Family(
    architecture="DeepseekV3ForCausalLM",
    model_type="deepseek_v3",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=with_rules(expert_tensors.DEEPSEEK, *latent_tensors.HF_LATENT),
    gguf_architecture="deepseek2",
    is_gguf=lambda keys: keys.get("expert_gating_func") == 2,
    gguf_rules=latent_gguf.RULES,
    gguf_variants=latent_gguf.VARIANTS,
    gguf_fields=latent_gguf.FIELDS,
    gguf_required=latent_gguf.REQUIRED,
    gguf_implied=latent_gguf.implied,
    gguf_keys=latent_gguf.keys,
    gguf_biases=(),
    has_extra_layers=True,
)
