"""The Qwen3-Next family: gated delta nets with gated attention between them, and experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flaxen.families import expert_fields, expert_tensors, hf, state_fields
from flaxen.families.family import GGUF_REQUIRED, Family
from flaxen.families.hf_rope import rope_config
from flaxen.families.hf_values import flag, require_present, whole
from flaxen.families.rules import (
    NegatedExp,
    PlusOne,
    Regroup,
    Split,
    TensorRule,
    as_is,
    matrix,
    taps,
    with_rules,
    with_steps,
)
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import Attention, QkNorm
from flaxen.models.layers.experts import Experts
from flaxen.models.layers.gated_delta import GatedDelta

_GATED = ("wq", "w_attn_gate")  # of one tensor


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    require_present(fields, "num_key_value_heads", "head_dim", "num_experts")
    norm = hf.rms_norm(fields, one_plus=True)
    config = hf.decoder_config(
        fields,
        attention={
            "rope": rope_config(fields, default_partial=0.25),
            "biases": (*_GATED, "wk", "wv", "wo") if flag(fields, "attention_bias") else (),
            "qk_norm": QkNorm(norm=norm),
            "is_gated": True,
        },
        norm=norm,
        reads=("num_experts", "partial_rotary_factor"),
        refused=("mlp_bias", "sliding_window"),
    )
    net = GatedDelta(
        num_key_heads=whole(fields, "linear_num_key_heads"),
        num_value_heads=whole(fields, "linear_num_value_heads"),
        key_dim=whole(fields, "linear_key_head_dim"),
        value_dim=whole(fields, "linear_value_head_dim"),
        num_taps=whole(fields, "linear_conv_kernel_dim", default=4),
        norm_eps=norm.eps,
    )
    config = state_fields.with_mixer(config, net, _kinds(fields), "linear_attention")
    if not fields["num_experts"]:
        return config
    return expert_fields.with_experts(config, _experts(fields), expert_fields.sparse_steps(fields))


def _experts(fields: Mapping[str, Any]) -> Experts:
    require_present(fields, "norm_topk_prob")
    return expert_fields.qwen_experts(fields, "moe_intermediate_size", shared=True)


def _kinds(fields: Mapping[str, Any]) -> Any:
    """The field layer_types; without it, every few layers have attention."""
    if fields.get("layer_types") is not None:
        return fields["layer_types"]
    interval = whole(fields, "full_attention_interval", default=4)
    return [
        "linear_attention" if (number + 1) % interval else "full_attention"
        for number in range(hf.num_layers(fields))
    ]


# This delta net stands in config.json where no layer has one.
_UNUSED = GatedDelta(
    num_key_heads=1, num_value_heads=1, key_dim=1, value_dim=1, num_taps=4, norm_eps=1e-6
)


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    net = hf.first(config, GatedDelta, _UNUSED)
    return {
        "partial_rotary_factor": 1.0,
        **hf.decoder_fields(config),
        "attention_bias": bool(hf.first(config, Attention, hf.NO_ATTENTION).biases),
        "layer_types": [
            "full_attention" if isinstance(layer.mixer, Attention) else "linear_attention"
            for layer in config.layers
        ],
        "linear_num_key_heads": net.num_key_heads,
        "linear_num_value_heads": net.num_value_heads,
        "linear_key_head_dim": net.key_dim,
        "linear_value_head_dim": net.value_dim,
        "linear_conv_kernel_dim": net.num_taps,
        **_expert_fields(config),
    }


def _expert_fields(config: DecoderConfig) -> dict[str, Any]:
    if len(expert_fields.dense_layers(config)) == len(config.layers):
        return {"num_experts": 0}
    experts = hf.first(config, Experts)
    assert experts.shared is not None
    return {
        **expert_fields.qwen_fields(experts),
        "moe_intermediate_size": experts.mlp_dim,
        "shared_expert_intermediate_size": experts.shared.mlp_dim,
        "decoder_sparse_step": 1,
        "mlp_only_layers": expert_fields.dense_layers(config),
    }


_ATTENTION = "model.layers.{layer}.self_attn."
_NET = "model.layers.{layer}.linear_attn."

_BLOCK = "blk.{layer}."
_KEYS, _VALUES = ("num_key_heads", "key_dim"), ("num_value_heads", "value_dim")
_GATED_RULE = TensorRule(  # each head's query, and its gate
    params=_GATED,
    tensors=(_ATTENTION + "q_proj.weight",),
    steps=(Split((1, 1), groups="num_heads"),),
    transposed=True,
)
_GGUF_RULES = with_rules(
    with_steps(
        expert_tensors.GGUF_EXPERTS_POST,
        ("attn_norm", "mlp_norm", "q_norm", "k_norm", "final_norm"),
        PlusOne(),
    ),
    replace(_GATED_RULE, tensors=(_BLOCK + "attn_q.weight",)),
    # Queries, keys and values of all heads one after another, and the gates.
    TensorRule(
        params=("w_in",),
        tensors=(_BLOCK + "attn_qkv.weight", _BLOCK + "attn_gate.weight"),
        steps=(
            Regroup(
                shares=(_KEYS, _KEYS, _VALUES, _VALUES),
                counts=(3, 1),
                num_groups="num_key_heads",
            ),
        ),
        transposed=True,
    ),
    matrix("w_ba", _BLOCK + "ssm_ba.weight"),
    matrix("conv_weight", _BLOCK + "ssm_conv1d.weight"),
    as_is("a_log", _BLOCK + "ssm_a", NegatedExp()),
    as_is("dt_bias", _BLOCK + "ssm_dt.bias"),
    as_is("gate_norm", _BLOCK + "ssm_norm.weight"),
    matrix("w_out", _BLOCK + "ssm_out.weight"),
)


_SIZES = ("ssm.inner_size", "ssm.state_size", "ssm.time_step_rank")


def _implied(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that llama.cpp fixes, or that follow from those of the metadata.

    Raises:
      ValueError: values are not of the size of keys, which llama.cpp takes them for.
    """
    size, num_heads = fields["linear_key_head_dim"], fields["linear_num_value_heads"]
    if fields["inner_size"] != size * num_heads:
        raise ValueError(
            f"metadata qwen3next.ssm.inner_size = {fields['inner_size']} is not supported: it must "
            f"be ssm.time_step_rank times ssm.state_size, {size * num_heads}"
        )
    recurrent = fields.get("recurrent_layers", [])
    if not isinstance(recurrent, list):
        raise ValueError(
            f"metadata qwen3next.attention.recurrent_layers = {recurrent!r} is not supported: only "
            "a list with a truth value for each layer is"
        )
    kinds = ["linear_attention" if each else "full_attention" for each in recurrent]
    return {
        "linear_value_head_dim": size,
        "norm_topk_prob": True,
        "layer_types": kinds[: fields["num_hidden_layers"]] or None,
    }


def _keys(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse."""
    width = fields["linear_num_value_heads"] * fields["linear_value_head_dim"]
    recurrent = [kind == "linear_attention" for kind in fields["layer_types"]]
    return {"ssm.inner_size": width, "attention.recurrent_layers": recurrent}


FAMILY = Family(
    architecture="Qwen3NextForCausalLM",
    model_type="qwen3_next",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=(
        *with_rules(
            expert_tensors.QWEN,
            _GATED_RULE,
            TensorRule(
                params=("bq", "b_attn_gate"),
                tensors=(_ATTENTION + "q_proj.bias",),
                steps=(Split((1, 1), groups="num_heads"),),
            ),
        ),
        matrix("w_in", _NET + "in_proj_qkvz.weight"),
        matrix("w_ba", _NET + "in_proj_ba.weight"),
        taps("conv_weight", _NET + "conv1d.weight"),
        as_is("a_log", _NET + "A_log"),
        as_is("dt_bias", _NET + "dt_bias"),
        as_is("gate_norm", _NET + "norm.weight"),
        matrix("w_out", _NET + "out_proj.weight"),
    ),
    gguf_architecture="qwen3next",
    gguf_rules=_GGUF_RULES,
    gguf_variants={
        **expert_tensors.GGUF_VARIANTS,
        "ssm_in.weight": (matrix("w_in", _BLOCK + "ssm_in.weight"),),
    },
    gguf_fields={
        **expert_fields.gguf_counts("num_experts"),
        "expert_feed_forward_length": "moe_intermediate_size",
        "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
        "full_attention_interval": "full_attention_interval",
        "attention.recurrent_layers": "recurrent_layers",
        "nextn_predict_layers": "num_nextn_predict_layers",
        "ssm.conv_kernel": "linear_conv_kernel_dim",
        "ssm.state_size": "linear_key_head_dim",
        "ssm.group_count": "linear_num_key_heads",
        "ssm.time_step_rank": "linear_num_value_heads",
        "ssm.inner_size": "inner_size",
    },
    gguf_share="partial_rotary_factor",
    gguf_lists=("attention.recurrent_layers",),
    gguf_required=(*GGUF_REQUIRED, "expert_count", *_SIZES),
    gguf_implied=_implied,
    gguf_keys=_keys,
    gguf_biases=(),
    has_extra_layers=True,
)
