"""The text models of the Llama 4 family: attention over chunks, layers without rope, and experts
whose inputs are scaled, beside one that all tokens share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flaxen.expert_kernels.experts import ExpertsSpec
from flaxen.expert_kernels.routing import RoutingSpec
from flaxen.families import expert_fields, expert_tensors, hf
from flaxen.families.family import Family
from flaxen.families.hf_rope import rope_config, rope_fields
from flaxen.families.hf_values import flag, positive, require_present, whole
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import Attention, QkNorm, Temperature
from flaxen.models.layers.block import LayerConfig
from flaxen.models.layers.experts import Experts
from flaxen.models.layers.mlp import DenseMlp
from flaxen.models.layers.norm import Norm

_CHUNKED = "chunked_attention"
_FULL = "full_attention"
_STEP = "interleave_moe_layer_step"


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    require_present(fields, "num_key_value_heads", "head_dim", "use_qk_norm", "rms_norm_eps",
                    "attention_chunk_size")  # fmt: skip
    theta = positive(fields, "rope_theta", 500_000.0)
    config = hf.decoder_config(
        fields,
        attention={
            "rope": rope_config({**fields, "rope_theta": theta}, interleaved=True),
            "biases": hf.attention_biases(fields),
        },
        mlp={"mlp_dim": whole(fields, "intermediate_size_mlp")},
        reads=("num_local_experts", "attention_chunk_size", "no_rope_layers"),
        refused=("mlp_bias", "sliding_window", "use_sliding_window"),
    )
    dim = whole(fields, "intermediate_size")
    experts = Experts(
        num_experts=whole(fields, "num_local_experts"),
        mlp_dim=dim,
        routing=RoutingSpec(
            k=whole(fields, "num_experts_per_tok"), score="sigmoid", normalize=False
        ),
        spec=ExpertsSpec(scales_inputs=True),
        shared=DenseMlp(mlp_dim=dim),
    )
    full = _completed(fields)
    config = expert_fields.with_experts(config, experts, lambda i: i in full["moe_layers"])
    return config.with_layers(lambda number, layer: _with_attention(full, number, layer))


def _completed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with what differs by layer, which the published files leave out, as the rules
    of transformers have it.
    """
    count = hf.num_layers(fields)
    interval = whole(fields, "no_rope_layer_interval", default=4)
    ropes = expert_fields.numbers(fields, "no_rope_layers") or tuple(
        int((number + 1) % interval != 0) for number in range(count)
    )
    chunks = fields["attention_chunk_size"] is not None
    kinds = fields.get("layer_types") or [_CHUNKED if each and chunks else _FULL for each in ropes]
    if len(ropes) != count or not isinstance(kinds, list | tuple) or len(kinds) != count:
        raise ValueError(
            f"layer_types and no_rope_layers must have an entry for each of the {count} layers, "
            f"got {kinds!r} and {list(ropes)}"
        )
    step = whole(fields, "interleave_moe_layer_step", default=1)
    sparse: Sequence[int] = range(step - 1, count, step)
    if fields.get("moe_layers") is not None:
        sparse = expert_fields.numbers(fields, "moe_layers")
    # Files have a number here too, of which only whether it is 0 counts.
    is_tuned = bool({"attn_temperature_tuning": True, **fields}["attn_temperature_tuning"])
    return {**fields, "no_rope_layers": ropes, "layer_types": kinds, "moe_layers": sparse,
            "attn_temperature_tuning": is_tuned}  # fmt: skip


def _with_attention(fields: Mapping[str, Any], number: int, layer: LayerConfig) -> LayerConfig:
    """The layer with its own attention: with rope or without, over a chunk or over all tokens."""
    mixer, kind = layer.mixer, fields["layer_types"][number]
    assert isinstance(mixer, Attention)
    if kind not in (_CHUNKED, _FULL):
        raise ValueError(
            f"layer_types has {kind!r}, which is not supported: only {_CHUNKED} and {_FULL} are"
        )
    chunk = whole(fields, "attention_chunk_size") if kind == _CHUNKED else None
    if fields["no_rope_layers"][number]:
        norm = Norm(eps=layer.norm.eps, has_weight=False)
        qk_norm = QkNorm(norm=norm, after_rope=True) if flag(fields, "use_qk_norm") else None
        return replace(layer, mixer=replace(mixer, chunk=chunk, qk_norm=qk_norm))
    temperature = None
    if fields["attn_temperature_tuning"]:
        temperature = Temperature(
            interval=whole(fields, "floor_scale", default=8192),
            scale=positive(fields, "attn_scale", 0.1),
            offset=1,
        )
    return replace(layer, mixer=replace(mixer, rope=None, chunk=chunk, temperature=temperature))


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    experts = hf.first(config, Experts)
    mixers = [layer.mixer for layer in config.layers if isinstance(layer.mixer, Attention)]
    chunks = [each.chunk for each in mixers if each.chunk is not None]
    tuned = [each.temperature for each in mixers if each.temperature is not None]
    dense = set(expert_fields.dense_layers(config))
    rope = next((each.rope for each in mixers if each.rope is not None), None)
    return {
        **hf.decoder_fields(config),
        **({} if rope is None else rope_fields(rope)),
        "intermediate_size": experts.mlp_dim,
        "intermediate_size_mlp": hf.decoder_fields(config)["intermediate_size"],
        "attention_bias": hf.has_bias(config, "wq"),
        "attention_chunk_size": chunks[0] if chunks else None,
        "layer_types": [_FULL if each.chunk is None else _CHUNKED for each in mixers],
        "no_rope_layers": [int(each.rope is not None) for each in mixers],
        "use_qk_norm": any(each.qk_norm is not None for each in mixers),
        "attn_temperature_tuning": bool(tuned),
        **({"floor_scale": tuned[0].interval, "attn_scale": tuned[0].scale} if tuned else {}),
        "num_local_experts": experts.num_experts,
        "num_experts_per_tok": experts.routing.k,
        "moe_layers": [i for i in range(len(config.layers)) if i not in dense],
    }


def _implied(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What llama.cpp fixes, whatever the metadata says: three layers of four see chunks and have
    rope, and the model of 128 experts has no norms of heads.
    """
    if fields.get("attention_chunk_size") == 0:
        raise ValueError(
            "metadata llama4.attention.sliding_window = 0 is not supported: models without chunks "
            "are not"
        )
    count, step = fields["num_hidden_layers"], whole(fields, _STEP)
    ropes = [int((number + 1) % 4 != 0) for number in range(count)]
    return {
        "attention_chunk_size": 8192,
        "layer_types": [_CHUNKED if each else _FULL for each in ropes],
        "no_rope_layers": ropes,
        "moe_layers": list(range(step - 1, count, step)),
        "use_qk_norm": fields.get("num_local_experts") != 128,
        "attn_temperature_tuning": True,
        "floor_scale": 8192,
        "attn_scale": 0.1,
    }


FAMILY = Family(
    architecture="Llama4ForCausalLM",
    model_type="llama4_text",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=expert_tensors.LLAMA4,
    gguf_architecture="llama4",
    gguf_rules=expert_tensors.GGUF_EXPERTS,
    gguf_variants=expert_tensors.GGUF_VARIANTS,
    gguf_fields={
        **expert_fields.gguf_counts("num_local_experts"),
        "expert_feed_forward_length": "intermediate_size",
        "feed_forward_length": "intermediate_size_mlp",
        "interleave_moe_layer_step": _STEP,
        "attention.sliding_window": "attention_chunk_size",
    },
    gguf_implied=_implied,
    gguf_keys=lambda fields: {"interleave_moe_layer_step": fields["moe_layers"][0] + 1},
    gguf_biases=(),
)
