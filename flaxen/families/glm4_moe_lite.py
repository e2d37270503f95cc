"""The GLM-4-MoE-lite family (GLM-4.7-Flash): DeepSeek V3's latent attention and experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from flaxen.families import deepseek_v3, expert_fields
from flaxen.families.hf_values import flag
from flaxen.families.latent_fields import latent_config
from flaxen.models.config import DecoderConfig

_KINDS = ("dense", "sparse")


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    interleaved = fields.get("rope_interleave") is None or flag(fields, "rope_interleave")
    config = latent_config(
        fields, interleaved=interleaved, reads=("n_routed_experts", "num_local_experts")
    )
    return expert_fields.with_experts(
        config, expert_fields.grouped_experts(fields), _is_sparse(fields, len(config.layers))
    )


def _is_sparse(fields: Mapping[str, Any], count: int) -> Callable[[int], bool]:
    """Which layers have experts: all but the first, unless mlp_layer_types says otherwise."""
    kinds = fields.get("mlp_layer_types")
    if kinds is None:
        return expert_fields.first_dense({"first_k_dense_replace": 1, **fields})
    if not isinstance(kinds, list | tuple) or len(kinds) != count or set(kinds) - set(_KINDS):
        raise ValueError(
            f"mlp_layer_types must list {' or '.join(_KINDS)} for each of the {count} layers, got "
            f"{kinds!r}"
        )
    return lambda number: kinds[number] == "sparse"


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    dense = expert_fields.dense_layers(config)
    return {
        **deepseek_v3.config_to_hf(config),
        "mlp_layer_types": [_KINDS[i not in dense] for i in range(len(config.layers))],
    }


FAMILY = replace(
    deepseek_v3.FAMILY,
    architecture="Glm4MoeLiteForCausalLM",
    model_type="glm4_moe_lite",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    is_gguf=lambda keys: False,  # its files are read as DeepSeek V3's
)
