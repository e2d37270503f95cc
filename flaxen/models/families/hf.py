"""Reads and writes the fields that the families' Hugging Face config.json files share.

A field that would change the result is used or refused by its name; fields of training, generation
and bookkeeping are ignored. Deliberately does not know any family, nor files.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from flaxen.models.config import DecoderConfig
from flaxen.models.families.hf_rope import rope_config, rope_fields

_MAX_LAYERS = 1000

# Fields that change the result and that the decoder does not support, with their harmless values.
_REFUSED: Mapping[str, tuple[Any, ...]] = {
    "quantization": (None,),
    "compression_config": (None,),
    "hidden_act": ("silu", None),
    "hidden_activation": ("silu", None),
    "pretraining_tp": (1, None),
    "partial_rotary_factor": (1, None),
    "rope_interleaved": (False, None),
    "dual_chunk_attention_config": (None,),
    "attention_chunk_size": (None,),
    "no_rope_layers": (None, ()),
    "clip_qkv": (None,),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "attention_multiplier": (None,),
    "embedding_multiplier": (1, None),
    "residual_multiplier": (1, None),
    "logits_scaling": (1, None),
    "logit_scale": (1, None),
    "is_causal": (True, None),
    "use_bidirectional_attention": (False, None),
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
    "num_experts": (0, None),
    "num_local_experts": (0, None),
}


def decoder_config(
    hf: Mapping[str, Any],
    *,
    biases: tuple[str, ...] = (),
    qk_norm: bool = False,
    windows: tuple[int | None, ...] = (),
    refused: Collection[str] = (),
) -> DecoderConfig:
    """Makes the decoder's configuration from the shared fields and a family's own.

    Args:
      hf: the fields of config.json.
      biases: as in DecoderConfig.
      qk_norm: as in DecoderConfig.
      windows: as in DecoderConfig.
      refused: fields of other families that must not be set here.

    Raises:
      ValueError: a field is missing, has the wrong type, or is not supported.
    """
    _check_refused(hf, refused)
    num_heads = whole(hf, "num_attention_heads")
    model_dim = whole(hf, "hidden_size")
    head_dim = whole(hf, "head_dim", default=0)
    if head_dim == 0:
        if model_dim % num_heads:
            raise ValueError(
                f"the configuration has no head_dim, and hidden_size ({model_dim}) is not a "
                f"multiple of num_attention_heads ({num_heads}): add head_dim"
            )
        head_dim = model_dim // num_heads
    return DecoderConfig(
        vocab_size=whole(hf, "vocab_size"),
        model_dim=model_dim,
        mlp_dim=whole(hf, "intermediate_size"),
        num_layers=num_layers(hf),
        num_heads=num_heads,
        num_kv_heads=whole(hf, "num_key_value_heads", default=num_heads),
        head_dim=head_dim,
        norm_eps=_norm_eps(hf),
        rope=rope_config(hf),
        windows=windows,
        biases=biases,
        qk_norm=qk_norm,
        tied_embeddings=flag(hf, "tie_word_embeddings"),
        max_position=whole(hf, "max_position_embeddings"),
    )


def decoder_fields(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the shared fields of config.json, without biases, head norms and windows."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.model_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_position,
        "tie_word_embeddings": config.tied_embeddings,
        **rope_fields(config.rope),
    }


def layer_windows(hf: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Each layer's sliding window, by layer_types or, without it, by max_window_layers.

    Raises:
      ValueError: layer_types has an unknown kind, another length, or no window to slide.
    """
    count = num_layers(hf)
    window: int | None = None
    if flag(hf, "use_sliding_window"):
        window = whole(hf, "sliding_window")
    kinds = hf.get("layer_types")
    if kinds is None:
        if window is None:
            return (None,) * count
        num_full = whole(hf, "max_window_layers")
        return tuple(None if i < num_full else window for i in range(count))
    if not isinstance(kinds, list | tuple) or len(kinds) != count:
        raise ValueError(
            f"layer_types must list one kind for each of the {count} layers, got {kinds!r}"
        )
    for kind in kinds:
        if kind not in ("full_attention", "sliding_attention"):
            raise ValueError(
                f"layer_types has {kind!r}, which is not supported: only "
                "full_attention and sliding_attention are"
            )
    if window is None and "sliding_attention" in kinds:
        raise ValueError(
            "layer_types has sliding_attention, but use_sliding_window is not true: "
            "set it, with sliding_window, or make every layer full_attention"
        )
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def window_fields(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of layer_windows, for layers with one common window or none."""
    windows = [window for window in config.windows if window is not None]
    if not windows:
        return {"use_sliding_window": False}
    return {
        "use_sliding_window": True,
        "sliding_window": windows[0],
        "max_window_layers": next(i for i, each in enumerate(config.windows) if each is not None),
        "layer_types": [
            "full_attention" if each is None else "sliding_attention" for each in config.windows
        ],
    }


def num_layers(hf: Mapping[str, Any]) -> int:
    """The number of layers, limited so that a damaged file is refused."""
    count = whole(hf, "num_hidden_layers")
    if count > _MAX_LAYERS:
        raise ValueError(f"num_hidden_layers must be at most {_MAX_LAYERS}, got {count}")
    return count


def whole(hf: Mapping[str, Any], name: str, *, default: int | None = None) -> int:
    """Reads a whole number above 0; null counts as missing."""
    value = hf.get(name)
    if value is None and default is not None:
        return default
    if value is None:
        raise ValueError(
            f"the configuration has no {name}: add it, as the model can't be built without"
        )
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ValueError(f"{name} must be a whole number above 0, got {value!r}")
    return value


def flag(hf: Mapping[str, Any], name: str) -> bool:
    """Reads a boolean; null and missing are False."""
    value = hf.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")
    return value


def require_present(hf: Mapping[str, Any], *names: str) -> None:
    """Refuses a config.json without a field; null counts as present."""
    for name in names:
        if name not in hf:
            raise ValueError(
                f"the configuration has no {name}, whose default is not the same everywhere: add it"
            )


def _norm_eps(hf: Mapping[str, Any]) -> float:
    value = hf.get("rms_norm_eps", 1e-6)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"rms_norm_eps must be a number above 0, got {value!r}")
    return float(value)


def _check_refused(hf: Mapping[str, Any], refused: Collection[str]) -> None:
    quantization = hf.get("quantization_config")
    if quantization is not None:
        method = (
            quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        )
        raise ValueError(
            f"quantization_config ({method!r}) is not supported: only float32, "
            "float16 and bfloat16 safetensors are read; use the checkpoint before quantization, or "
            "a GGUF file of it"
        )
    for name, harmless in _REFUSED.items():
        _check_harmless(hf, name, harmless)
    for name in refused:
        _check_harmless(hf, name, (None, False))


def _check_harmless(hf: Mapping[str, Any], name: str, harmless: tuple[Any, ...]) -> None:
    value = hf.get(name)
    if isinstance(value, list):
        value = tuple(value)
    if value not in harmless:
        allowed = " or ".join(repr(v) for v in harmless if v is not None)
        raise ValueError(
            f"{name} = {value!r} is not supported, and leaving it out would change "
            f"the result{': only ' + allowed + ' is' if allowed else ''}"
        )
