"""The Granite-MoE families: multipliers of the embedding, residuals, scores and logits; experts,
and shared ones in the second family.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flaxen.expert_kernels.routing import RoutingSpec
from flaxen.families import expert_fields, expert_tensors, granite, hf
from flaxen.families.family import Family
from flaxen.families.hf_values import positive, require_present, whole
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import Attention
from flaxen.models.layers.experts import Experts
from flaxen.models.layers.mlp import DenseMlp

_MULTIPLIERS = (
    "embedding_multiplier",
    "attention_multiplier",
    "residual_multiplier",
    "logits_scaling",
)


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    require_present(fields, *_MULTIPLIERS)
    config = hf.decoder_config(
        fields,
        attention={
            "biases": hf.attention_biases(fields),
            "scale": positive(fields, "attention_multiplier"),
        },
        layer={"residual_scale": positive(fields, "residual_multiplier")},
        reads=("num_local_experts", *_MULTIPLIERS),
        refused=("mlp_bias", "sliding_window", "use_sliding_window", "layer_types"),
        embed_scale=positive(fields, "embedding_multiplier"),
        logit_scale=1 / positive(fields, "logits_scaling"),
    )
    shared_dim = fields.get("shared_intermediate_size") or 0
    experts = Experts(
        num_experts=whole(fields, "num_local_experts"),
        mlp_dim=whole(fields, "intermediate_size"),
        routing=RoutingSpec(k=whole(fields, "num_experts_per_tok")),
        shared=DenseMlp(mlp_dim=whole(fields, "shared_intermediate_size")) if shared_dim else None,
    )
    return expert_fields.with_experts(config, experts)


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    experts, attention = hf.first(config, Experts), hf.first(config, Attention)
    return {
        **hf.decoder_fields(config),
        "attention_bias": hf.has_bias(config, "wq"),
        "embedding_multiplier": config.embed_scale,
        "attention_multiplier": attention.scale,
        "residual_multiplier": config.layers[0].residual_scale,
        "logits_scaling": 1 / config.logit_scale,
        "num_local_experts": experts.num_experts,
        "num_experts_per_tok": experts.routing.k,
        "shared_intermediate_size": 0 if experts.shared is None else experts.shared.mlp_dim,
    }


FAMILY = Family(
    architecture="GraniteMoeForCausalLM",
    model_type="granitemoe",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=expert_tensors.GRANITE,
    gguf_architecture="granitemoe",
    is_gguf=lambda keys: not keys.get("expert_shared_feed_forward_length"),
    gguf_rules=expert_tensors.GGUF_EXPERTS_INTERLEAVED,
    gguf_variants=expert_tensors.GGUF_VARIANTS,
    gguf_fields={**granite.GGUF_FIELDS, **expert_fields.gguf_counts("num_local_experts")},
    gguf_implied=granite.gguf_implied,
    gguf_biases=(),
)
SHARED = replace(
    FAMILY,
    architecture="GraniteMoeSharedForCausalLM",
    model_type="granitemoeshared",
    is_gguf=lambda keys: bool(keys.get("expert_shared_feed_forward_length")),
    gguf_fields={
        **FAMILY.gguf_fields,
        "expert_shared_feed_forward_length": "shared_intermediate_size",
    },
)
