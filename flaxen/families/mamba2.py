"""The Mamba-2 family: layers that are a state space alone, without attention or an MLP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.families import hf, state_fields, tensors
from flaxen.families.family import Family
from flaxen.families.hf_refused import check_refused
from flaxen.families.hf_values import flag, positive, whole
from flaxen.families.rules import (
    ByGroup,
    DropAxis,
    NegatedExp,
    Rules,
    as_is,
    matrix,
    taps,
    with_rules,
)
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.block import LayerConfig
from flaxen.models.layers.mamba2 import Mamba2
from flaxen.models.layers.norm import Norm

# The model has no longest sequence. This is a limit of our own, for the arrays of tokens.
MAX_POSITION = 2**17


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    check_refused(fields)
    norm = Norm(eps=positive(fields, "layer_norm_epsilon", 1e-5))
    mixer = Mamba2(
        num_heads=whole(fields, "num_heads"),
        head_dim=whole(fields, "head_dim"),
        num_groups=whole(fields, "n_groups"),
        state_dim=whole(fields, "state_size"),
        num_taps=whole(fields, "conv_kernel"),
        norm_eps=norm.eps,
        dt_limit=state_fields.limits(fields, "time_step_limit"),
        has_conv_bias=flag({"use_conv_bias": True, **fields}, "use_conv_bias"),
        has_bias=flag(fields, "use_bias"),
    )
    check_width(mixer, whole(fields, "expand", default=2) * whole(fields, "hidden_size"))
    layer = LayerConfig(mixer=mixer, mlp=None, norm=norm)
    return DecoderConfig(
        vocab_size=whole(fields, "vocab_size"),
        model_dim=whole(fields, "hidden_size"),
        layers=(layer,) * hf.num_layers(fields),
        final_norm=norm,
        tied_embeddings=flag(fields, "tie_word_embeddings"),
        max_position=whole(fields, "max_position_embeddings", default=MAX_POSITION),
    )


def check_width(mixer: Mamba2, width: int) -> None:
    """Refuses heads that do not have the width that the configuration says.

    Raises:
      ValueError: they do not.
    """
    if mixer.num_heads * mixer.head_dim != width:
        raise ValueError(
            f"Mamba-2's {mixer.num_heads} heads of {mixer.head_dim} do not make the {width} "
            "numbers of the expansion times hidden_size: correct the configuration"
        )


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    mixer = hf.first(config, Mamba2)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.model_dim,
        "num_hidden_layers": len(config.layers),
        "num_heads": mixer.num_heads,
        "head_dim": mixer.head_dim,
        "n_groups": mixer.num_groups,
        "state_size": mixer.state_dim,
        "conv_kernel": mixer.num_taps,
        "expand": mixer.num_heads * mixer.head_dim // config.model_dim,
        "layer_norm_epsilon": config.final_norm.eps,
        **state_fields.limit_fields("time_step_limit", mixer.dt_limit),
        "use_conv_bias": mixer.has_conv_bias,
        "use_bias": mixer.has_bias,
        "hidden_act": "silu",
        "tie_word_embeddings": config.tied_embeddings,
        "max_position_embeddings": config.max_position,
    }


def mixer_rules(prefix: str) -> Rules:
    """The rules of a layer's Mamba-2 mixer, whose tensors' names begin with `prefix`."""
    return (
        matrix("w_in", prefix + "in_proj.weight"),
        as_is("b_in", prefix + "in_proj.bias"),
        taps("conv_weight", prefix + "conv1d.weight"),
        as_is("conv_bias", prefix + "conv1d.bias"),
        as_is("a_log", prefix + "A_log"),
        as_is("dt_bias", prefix + "dt_bias"),
        as_is("skip", prefix + "D"),
        as_is("gate_norm", prefix + "norm.weight"),
        matrix("w_out", prefix + "out_proj.weight"),
        as_is("b_out", prefix + "out_proj.bias"),
    )


GGUF_RULES: Rules = (
    matrix("w_in", "blk.{layer}.ssm_in.weight"),
    matrix("conv_weight", "blk.{layer}.ssm_conv1d.weight"),
    as_is("conv_bias", "blk.{layer}.ssm_conv1d.bias"),
    as_is("a_log", "blk.{layer}.ssm_a", NegatedExp(), DropAxis()),
    as_is("dt_bias", "blk.{layer}.ssm_dt.bias"),
    as_is("skip", "blk.{layer}.ssm_d", DropAxis()),
    as_is("gate_norm", "blk.{layer}.ssm_norm.weight", ByGroup("num_groups")),
    matrix("w_out", "blk.{layer}.ssm_out.weight"),
)
_GGUF_REQUIRED = ("ssm.inner_size", "ssm.time_step_rank")


def _implied(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes that follow from those of the metadata. llama.cpp's converter writes any number
    for the longest sequence.
    """
    return {
        "expand": fields["inner_size"] // fields["hidden_size"],
        "head_dim": fields["inner_size"] // fields["num_heads"],
        "max_position_embeddings": min(fields["max_position_embeddings"], MAX_POSITION),
    }


FAMILY = Family(
    architecture="Mamba2ForCausalLM",
    model_type="mamba2",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=(
        as_is("embed", "backbone.embeddings.weight"),
        as_is("final_norm", "backbone.norm_f.weight"),
        as_is("unembed", "lm_head.weight"),
        as_is("attn_norm", "backbone.layers.{layer}.norm.weight"),
        *mixer_rules("backbone.layers.{layer}.mixer."),
    ),
    hf_prefix="backbone.",
    gguf_architecture="mamba2",
    gguf_rules=with_rules(tensors.GGUF, *GGUF_RULES),
    gguf_fields={
        "attention.layer_norm_rms_epsilon": "layer_norm_epsilon",
        "attention.head_count": "attention_heads",  # 0
        "feed_forward_length": "mlp_dim",  # 0
        "ssm.conv_kernel": "conv_kernel",
        "ssm.state_size": "state_size",
        "ssm.group_count": "n_groups",
        "ssm.time_step_rank": "num_heads",
        "ssm.inner_size": "inner_size",
    },
    gguf_flags={"use_conv_bias": "ssm_conv1d.bias"},
    gguf_required=("embedding_length", "block_count", "context_length", *_GGUF_REQUIRED),
    gguf_implied=_implied,
    gguf_keys=lambda fields: {
        "attention.head_count": 0,
        "attention.key_length": None,
        "feed_forward_length": 0,
        "ssm.inner_size": fields["num_heads"] * fields["head_dim"],
    },
    gguf_biases=(),
)
