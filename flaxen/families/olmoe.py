"""The OLMoE family: norms over all query and key heads as one, and experts in each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.families import expert_fields, expert_tensors, hf
from flaxen.families.family import Family
from flaxen.families.hf_values import require_present
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import QkNorm
from flaxen.models.layers.experts import Experts


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    require_present(fields, "norm_topk_prob", "rms_norm_eps")
    config = hf.decoder_config(
        fields,
        attention={
            "biases": hf.attention_biases(fields),
            "qk_norm": QkNorm(norm=hf.rms_norm(fields), over="whole"),
        },
        reads=("num_experts",),
        refused=("mlp_bias", "sliding_window", "use_sliding_window", "layer_types"),
    )
    return expert_fields.with_experts(
        config, expert_fields.qwen_experts(fields, "intermediate_size")
    )


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    return {
        **hf.decoder_fields(config),
        "attention_bias": hf.has_bias(config, "wq"),
        **expert_fields.qwen_fields(hf.first(config, Experts)),
    }


FAMILY = Family(
    architecture="OlmoeForCausalLM",
    model_type="olmoe",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=expert_tensors.QWEN,
    gguf_architecture="olmoe",
    gguf_rules=expert_tensors.GGUF_EXPERTS,
    gguf_variants=expert_tensors.GGUF_VARIANTS,
    gguf_fields=expert_fields.gguf_counts("num_experts"),
    gguf_implied=lambda fields: {"norm_topk_prob": False},
    gguf_biases=(),
)
