"""The Granite 4 family: Mamba-2 with attention between, experts, and Granite's scalars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.expert_kernels.routing import RoutingSpec
from flaxen.families import expert_fields, expert_tensors, granite, hf, mamba2, state_fields
from flaxen.families.family import GGUF_REQUIRED, Family
from flaxen.families.hf_values import flag, positive, require_present, whole
from flaxen.families.rules import Split, TensorRule, matrix, with_rules
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import Attention
from flaxen.models.layers.experts import Experts
from flaxen.models.layers.mamba2 import Mamba2
from flaxen.models.layers.mlp import DenseMlp

_SCALARS = (
    "embedding_multiplier", "residual_multiplier", "logits_scaling", "attention_multiplier"
)  # fmt: skip
# The kinds of layers, as older files name them.
_KINDS = {"mamba": "linear_attention", "attention": "full_attention"}


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    # The number of experts is 8 where it is missing.
    require_present(fields, "num_local_experts", "position_embedding_type")
    positions = fields["position_embedding_type"]
    if positions not in (None, "rope", "nope"):
        raise ValueError(f"position_embedding_type must be rope, nope or null, got {positions!r}")
    embed, residual, logits, attention = (positive(fields, each, 1.0) for each in _SCALARS)
    own: dict[str, Any] = {"scale": attention}
    if positions != "rope":
        own["rope"] = None
    config = hf.decoder_config(
        fields,
        attention={"biases": hf.attention_biases(fields), **own},
        mlp={"mlp_dim": whole(fields, "shared_intermediate_size")},
        layer={"residual_scale": residual},
        embed_scale=embed,
        logit_scale=1 / logits,
        reads=(*_SCALARS, "num_local_experts"),
        refused=("sliding_window", "mlp_bias"),
    )
    given = fields.get("layer_types") or fields.get("layers_block_type")
    kinds = [_KINDS.get(each, each) for each in given or ["mamba"] * len(config.layers)]
    config = state_fields.with_mixer(config, _mixer(fields), kinds, "linear_attention")
    if not fields["num_local_experts"]:
        return config
    experts = Experts(
        num_experts=whole(fields, "num_local_experts"),
        mlp_dim=whole(fields, "intermediate_size"),
        routing=RoutingSpec(k=whole(fields, "num_experts_per_tok")),
        shared=DenseMlp(mlp_dim=whole(fields, "shared_intermediate_size")),
    )
    return expert_fields.with_experts(config, experts)


def _mixer(fields: Mapping[str, Any]) -> Mamba2:
    num_heads = whole(fields, "mamba_n_heads", default=128)
    width = whole(fields, "mamba_expand", default=2) * whole(fields, "hidden_size")
    head_dim = fields.get("mamba_d_head")
    mixer = Mamba2(
        num_heads=num_heads,
        head_dim=width // num_heads
        if head_dim in (None, "auto")
        else whole(fields, "mamba_d_head"),
        num_groups=whole(fields, "mamba_n_groups", default=1),
        state_dim=whole(fields, "mamba_d_state", default=256),
        num_taps=whole(fields, "mamba_d_conv", default=4),
        norm_eps=hf.rms_norm(fields).eps,
        dt_limit=state_fields.limits(fields, "time_step_limit"),
        has_conv_bias=flag({"mamba_conv_bias": True, **fields}, "mamba_conv_bias"),
        has_bias=flag(fields, "mamba_proj_bias"),
    )
    mamba2.check_width(mixer, width)
    return mixer


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    unused = Mamba2(
        num_heads=1,
        head_dim=config.model_dim,
        num_groups=1,
        state_dim=1,
        num_taps=4,
        norm_eps=config.final_norm.eps,
    )
    mixer = hf.first(config, Mamba2, unused)
    attention = hf.first(config, Attention, hf.NO_ATTENTION)
    return {
        **hf.decoder_fields(config),
        **_mlp_fields(config),
        "attention_bias": bool(attention.biases),
        "position_embedding_type": None if attention.rope is None else "rope",
        "embedding_multiplier": config.embed_scale,
        "residual_multiplier": config.layers[0].residual_scale,
        "logits_scaling": 1 / config.logit_scale,
        "attention_multiplier": attention.scale,
        "layer_types": [
            "full_attention" if isinstance(layer.mixer, Attention) else "linear_attention"
            for layer in config.layers
        ],
        "mamba_n_heads": mixer.num_heads,
        "mamba_d_head": mixer.head_dim,
        "mamba_n_groups": mixer.num_groups,
        "mamba_d_state": mixer.state_dim,
        "mamba_d_conv": mixer.num_taps,
        "mamba_expand": mixer.num_heads * mixer.head_dim // config.model_dim,
        **state_fields.limit_fields("time_step_limit", mixer.dt_limit),
        "mamba_conv_bias": mixer.has_conv_bias,
        "mamba_proj_bias": mixer.has_bias,
    }


def _mlp_fields(config: DecoderConfig) -> dict[str, Any]:
    if len(expert_fields.dense_layers(config)) == len(config.layers):
        size = hf.first(config, DenseMlp).mlp_dim
        return {"shared_intermediate_size": size, "num_local_experts": 0}
    experts = hf.first(config, Experts)
    assert experts.shared is not None
    return {
        "shared_intermediate_size": experts.shared.mlp_dim,
        "num_local_experts": experts.num_experts,
        "num_experts_per_tok": experts.routing.k,
    }


def _implied(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that follow from those of the metadata. Without rope, llama.cpp's converter writes
    any number for the longest sequence.
    """
    has_rope, longest = fields.get("has_rope", True), fields["max_position_embeddings"]
    return {
        "shared_intermediate_size": fields["intermediate_size"],
        "num_local_experts": 0,
        **fields,
        **granite.gguf_implied(fields),
        **state_fields.of_kv_heads(fields, "linear_attention"),
        "position_embedding_type": "rope" if has_rope else None,
        "max_position_embeddings": longest if has_rope else min(longest, mamba2.MAX_POSITION),
        "mamba_d_head": fields["inner_size"] // fields["mamba_n_heads"],
        "mamba_expand": fields["inner_size"] // fields["hidden_size"],
    }


def _keys(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse."""
    return {
        **state_fields.kv_heads(fields),
        "rope.scaling.finetuned": fields["position_embedding_type"] == "rope",
        "ssm.inner_size": fields["mamba_n_heads"] * fields["mamba_d_head"],
    }


_LAYER = "model.layers.{layer}."

FAMILY = Family(
    architecture="GraniteMoeHybridForCausalLM",
    model_type="granitemoehybrid",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=(
        *with_rules(
            expert_tensors.GRANITE,
            TensorRule(
                params=("w_gate", "w_up"),
                tensors=(_LAYER + "shared_mlp.input_linear.weight",),
                steps=(Split((1, 1)),),
                transposed=True,
            ),
            matrix("w_down", _LAYER + "shared_mlp.output_linear.weight"),
        ),
        *mamba2.mixer_rules(_LAYER + "mamba."),
    ),
    gguf_architecture="granitehybrid",
    gguf_rules=with_rules(expert_tensors.GGUF_EXPERTS_INTERLEAVED, *mamba2.GGUF_RULES),
    gguf_variants=expert_tensors.GGUF_VARIANTS,
    gguf_fields={
        **granite.GGUF_FIELDS,
        **expert_fields.gguf_counts("num_local_experts"),
        "expert_shared_feed_forward_length": "shared_intermediate_size",
        "rope.scaling.finetuned": "has_rope",
        "ssm.conv_kernel": "mamba_d_conv",
        "ssm.state_size": "mamba_d_state",
        "ssm.group_count": "mamba_n_groups",
        "ssm.time_step_rank": "mamba_n_heads",
        "ssm.inner_size": "inner_size",
    },
    gguf_lists=("attention.head_count_kv",),
    gguf_flags={"mamba_conv_bias": "ssm_conv1d.bias"},
    gguf_required=(*GGUF_REQUIRED, "ssm.inner_size", "ssm.time_step_rank"),
    gguf_implied=_implied,
    gguf_keys=_keys,
    gguf_biases=("wo",),
)
