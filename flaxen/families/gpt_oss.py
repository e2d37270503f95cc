"""The GPT-OSS family: sinks in attention, windows on some layers, clamped gates with biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.expert_kernels.experts import ExpertsSpec, Gate
from flaxen.expert_kernels.routing import RoutingSpec
from flaxen.families import expert_fields, expert_tensors, hf, hf_layers
from flaxen.families.family import Family
from flaxen.families.hf_values import flag, positive, require_present, whole
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.experts import Experts

_BIASES = ("wq", "wk", "wv", "wo")
_NO_SCALING = {"rope_type": "default"}


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    require_present(fields, "num_key_value_heads", "head_dim", "sliding_window", "rms_norm_eps")
    if fields.get("rope_scaling") is None and fields.get("rope_parameters") is None:
        raise ValueError(
            "the configuration has no rope_scaling, where versions of transformers take YaRN or no "
            f"scaling: add it, {_NO_SCALING} for none"
        )
    kinds = hf_layers.layer_kinds(fields, pattern=2)
    has_biases = fields.get("attention_bias") is None or flag(fields, "attention_bias")
    config = hf.decoder_config(
        {**fields, "rope_theta": positive(fields, "rope_theta", 150_000.0)},
        attention={"biases": _BIASES if has_biases else (), "has_sinks": True},
        # The windows are those of the kinds of layers alone.
        windows=hf.layer_windows({**fields, "use_sliding_window": True, "layer_types": kinds}),
        reads=("num_local_experts",),
        refused=("mlp_bias", "use_sliding_window"),
    )
    gate = Gate(
        alpha=positive(fields, "swiglu_alpha", 1.702),
        limit=positive(fields, "swiglu_limit", 7.0),
        offset=1.0,
    )
    experts = Experts(
        num_experts=whole(fields, "num_local_experts"),
        mlp_dim=whole(fields, "intermediate_size"),
        routing=RoutingSpec(k=whole(fields, "num_experts_per_tok")),
        spec=ExpertsSpec(gate=gate),
        has_biases=True,
        router_bias=True,
    )
    return expert_fields.with_experts(config, experts)


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    experts = hf.first(config, Experts)
    windows = [each for each in hf.windows(config) if each is not None]
    return {
        "rope_scaling": _NO_SCALING,
        **hf.decoder_fields(config),
        "layer_types": hf.layer_types(config),
        "sliding_window": windows[0] if windows else 128,
        "attention_bias": hf.has_bias(config, "wq"),
        "swiglu_alpha": experts.spec.gate.alpha,
        "swiglu_limit": experts.spec.gate.limit,
        "num_local_experts": experts.num_experts,
        "num_experts_per_tok": experts.routing.k,
    }


def _implied(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What the metadata does not say: every second layer slides, from the first on, and YaRN's
    range is not rounded.
    """
    numbers = range(fields["num_hidden_layers"])
    kinds = [hf_layers.FULL if i % 2 else hf_layers.SLIDING for i in numbers]
    scaling = fields["rope_scaling"] or _NO_SCALING
    if scaling["rope_type"] == "yarn":
        scaling = {**scaling, "truncate": False}
    return {
        "layer_types": kinds,
        **fields,
        "intermediate_size": fields.get("expert_size", fields["intermediate_size"]),
        "rope_scaling": scaling,
    }


FAMILY = Family(
    architecture="GptOssForCausalLM",
    model_type="gpt_oss",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=expert_tensors.GPT_OSS,
    quantized_rules={"mxfp4": expert_tensors.GPT_OSS_MXFP4},
    gguf_architecture="gpt-oss",
    gguf_rules=expert_tensors.GGUF_GPT_OSS,
    gguf_fields={
        **expert_fields.gguf_counts("num_local_experts"),
        "expert_feed_forward_length": "expert_size",
        "attention.sliding_window": "sliding_window",
    },
    gguf_implied=_implied,
    gguf_keys=lambda fields: {"expert_feed_forward_length": fields["intermediate_size"]},
    gguf_biases=_BIASES,
)
