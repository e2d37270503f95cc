"""The Mixtral family: Mistral with experts in place of each MLP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.expert_kernels.routing import RoutingSpec
from flaxen.families import expert_fields, expert_tensors, hf
from flaxen.families.family import Family
from flaxen.families.hf_values import positive, require_present, whole, whole_or_none
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.experts import Experts


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    require_present(fields, "sliding_window", "num_key_value_heads", "rms_norm_eps")
    window = whole_or_none(fields, "sliding_window")
    config = hf.decoder_config(
        {**fields, "rope_theta": positive(fields, "rope_theta", 1_000_000.0)},
        windows=(window,) * hf.num_layers(fields),
        reads=("num_local_experts",),
        refused=("attention_bias", "mlp_bias", "layer_types", "use_sliding_window"),
    )
    experts = Experts(
        num_experts=whole(fields, "num_local_experts"),
        mlp_dim=whole(fields, "intermediate_size"),
        routing=RoutingSpec(k=whole(fields, "num_experts_per_tok")),
    )
    return expert_fields.with_experts(config, experts)


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    experts = hf.first(config, Experts)
    return {
        **hf.decoder_fields(config),
        "sliding_window": hf.windows(config)[0],
        "num_local_experts": experts.num_experts,
        "num_experts_per_tok": experts.routing.k,
    }


FAMILY = Family(
    architecture="MixtralForCausalLM",
    model_type="mixtral",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=expert_tensors.MIXTRAL,
    gguf_architecture="llama",
    is_gguf=lambda keys: bool(keys.get("expert_count")),
    gguf_rules=expert_tensors.GGUF_EXPERTS_INTERLEAVED,
    gguf_variants=expert_tensors.GGUF_VARIANTS,
    gguf_fields=expert_fields.gguf_counts("num_local_experts"),
    gguf_biases=(),
)
