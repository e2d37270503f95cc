"""The Phi-3 and Phi-4 family: Llama with fused projections, and rope over a part of a head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.families import hf, tensors
from flaxen.families.family import Family
from flaxen.families.hf_rope import rope_config
from flaxen.families.hf_values import require_present, whole_or_none
from flaxen.families.rules import Split, TensorRule, with_rules
from flaxen.models.config import DecoderConfig


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    require_present(fields, "rms_norm_eps")
    window = whole_or_none(fields, "sliding_window")
    return hf.decoder_config(
        fields,
        attention={"rope": rope_config(_renamed(fields), default_partial=1.0), "window": window},
        mlp={"activation": hf.activation(fields, "hidden_act", "silu")},
        reads=("hidden_act", "partial_rotary_factor"),
        refused=("attention_bias", "mlp_bias", "layer_types"),
    )


def _renamed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, with the name that longrope has everywhere else."""

    def one(rope: Any) -> Any:
        if not isinstance(rope, Mapping):
            return rope
        kind = rope.get("rope_type") or rope.get("type")
        return {**rope, "rope_type": "longrope"} if kind in ("su", "yarn") else rope

    renamed = {name: one(fields.get(name)) for name in ("rope_scaling", "rope_parameters")}
    # transformers' default differs from that of the other families.
    return {"original_max_position_embeddings": 4096, **fields, **renamed}


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    fields = hf.decoder_fields(config)
    scaling = fields.get("rope_scaling", {})
    original = scaling.pop("original_max_position_embeddings", None)
    at_top = {} if original is None else {"original_max_position_embeddings": original}
    return {**fields, **at_top, "sliding_window": hf.windows(config)[0]}


FAMILY = Family(
    architecture="Phi3ForCausalLM",
    model_type="phi3",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=with_rules(
        tensors.HF,
        TensorRule(
            params=("wq", "wk", "wv"),
            tensors=("model.layers.{layer}.self_attn.qkv_proj.weight",),
            steps=(Split(("num_heads", "num_kv_heads", "num_kv_heads")),),
            transposed=True,
        ),
        tensors.HF_FUSED_GATE_UP,
    ),
    gguf_architecture="phi3",
    gguf_rules=with_rules(tensors.GGUF_QKV, tensors.GGUF_FUSED_GATE_UP),
    gguf_share="partial_rotary_factor",
    gguf_fields={"attention.sliding_window": "sliding_window"},
)
