"""Refuses a config.json that can't run through PyTorch's bridge, before PyTorch is imported.

Each refusal is one line that names the field. Our decoder's errors use it too, before they suggest
impl=torch. Deliberately does not know files, PyTorch or transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_QUANTIZED = ("quantization_config", "quantization", "compression_config")
_ROPE = ("rope_scaling", "rope_parameters")
# These recompute their frequencies from the largest position in a step, of any request.
_ROPE_OF_THE_STEP = ("dynamic", "longrope", "su")
_RECURRENT_LAYERS = ("linear_attention", "mamba", "conv", "recurrent", "hybrid", "hybrid_sliding")
_RECURRENT_MODELS = ("rwkv", "xlstm")
# Sizes of a recurrent state. A class with only attention layers may have them, and then says so.
_STATE_SIZES = (
    "state_size", "ssm_state_size", "mamba_d_state", "mamba_d_ssm", "lru_width",
    "linear_num_value_heads", "linear_num_heads", "conv_L_cache",
)  # fmt: skip


def check_runs_through_torch(fields: Mapping[str, Any]) -> None:
    """Refuses configurations that can't be served with any class of transformers.

    Args:
      fields: of config.json.

    Raises:
      ValueError: the model is quantized, has an encoder and a decoder, has layers with a recurrent
          state or a rope that depends on other requests, or names its weights' file.
    """
    if not isinstance(fields.get("model_type"), str):
        raise ValueError(
            f"model_type must name the model's class, got {fields.get('model_type')!r}: add it, as "
            "transformers finds the class by it"
        )
    for part in _parts(fields):
        _check_quantization(part)
        _check_rope(part)
        _check_recurrent(part)
        if part.get("transformers_weights") is not None:
            raise ValueError(
                f"transformers_weights = {part['transformers_weights']!r} is not supported: "
                "weights are read from model.safetensors, or from the shards that its index names"
            )
    if fields.get("is_encoder_decoder"):
        raise ValueError(
            f"{fields['model_type']} is an encoder with a decoder (is_encoder_decoder): only "
            "models that are a decoder alone can be served"
        )


def _parts(fields: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The configuration and nested ones, such as the text model's in a vision model's."""
    yield fields
    for name, value in fields.items():
        if name.endswith("_config") and name not in _QUANTIZED and isinstance(value, dict):
            yield from _parts(value)


def _check_quantization(fields: Mapping[str, Any]) -> None:
    for name in _QUANTIZED:
        value = fields.get(name)
        if value is None:
            continue
        method = value.get("quant_method") if isinstance(value, dict) else value
        raise ValueError(
            f"{name} ({method!r}) is not supported: only float32, float16 and bfloat16 safetensors "
            "are read. Use the checkpoint before quantization, or a GGUF file of a family that our "
            "own decoder knows"
        )


def _check_rope(fields: Mapping[str, Any]) -> None:
    for name in _ROPE:
        for rope in _ropes(fields.get(name)):
            kind = rope.get("rope_type") or rope.get("type")
            if kind in _ROPE_OF_THE_STEP:
                raise ValueError(
                    f"rope kind {kind!r} ({name}) is not supported: it turns every position by the "
                    "longest sequence that is computed at the time, so a request's answer would "
                    "depend on other requests"
                )


def _check_recurrent(fields: Mapping[str, Any]) -> None:
    kinds = fields.get("layer_types") or fields.get("layers_block_type") or ()
    found = [f"layer_types has {kind!r}" for kind in kinds if kind in _RECURRENT_LAYERS]
    if fields.get("model_type") in _RECURRENT_MODELS:
        found.append(f"model_type is {fields['model_type']!r}")
    if not kinds:
        found += [f"it has {name}" for name in _STATE_SIZES if fields.get(name) is not None]
    if found:
        raise ValueError(
            f"layers with a recurrent state are not supported ({found[0]}): they take every token "
            "in its turn, and only models all of whose layers are attention can be served"
        )


def _ropes(value: Any) -> Iterator[Mapping[str, Any]]:
    """The ropes of a value: one, or one for each kind of layer."""
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from _ropes(each)
