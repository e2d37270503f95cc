"""Reads and writes the fields of config.json that families share whose layers keep states.

Deliberately does not know any family, nor files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flaxen.families.hf_values import listed_kinds
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.part import Mixer


def with_mixer(config: DecoderConfig, mixer: Mixer, kinds: Any, kind: str) -> DecoderConfig:
    """The same configuration with another mixer than attention in the layers of one kind.

    Args:
      config: of layers with attention.
      mixer: of the other layers.
      kinds: the field layer_types, with full_attention or `kind` for each layer.
      kind: that of the other layers.

    Raises:
      ValueError: the field has another kind or another length.
    """
    listed = listed_kinds(kinds, len(config.layers), ("full_attention", kind))
    return config.with_layers(
        lambda number, layer: replace(layer, mixer=mixer) if listed[number] == kind else layer
    )


def of_kv_heads(fields: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The fields that say which layers have attention, given those of a GGUF file, in which the
    others have 0 heads of keys.

    Args:
      fields: with the list of each layer's heads, or a number for all.
      kind: of the other layers.

    Raises:
      ValueError: layers with attention have different numbers of heads, or there are none.
    """
    given, count = fields["num_key_value_heads"], fields["num_hidden_layers"]
    heads = given[:count] if isinstance(given, list) else [given] * count
    numbers = set(heads) - {0}
    if len(numbers) != 1 or len(heads) != count:
        raise ValueError(
            f"metadata attention.head_count_kv = {given!r} is not supported: it must have 0 or one "
            f"number of heads for each of the {count} layers"
        )
    return {
        "num_key_value_heads": numbers.pop(),
        "layer_types": ["full_attention" if each else kind for each in heads],
    }


def kv_heads(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse: the key with each layer's heads."""
    num_heads, kinds = fields["num_key_value_heads"], fields["layer_types"]
    heads = [num_heads if kind == "full_attention" else 0 for kind in kinds]
    return {"attention.head_count_kv": heads}


def limits(hf: Mapping[str, Any], name: str) -> tuple[float, float]:
    """Reads the least and the largest of some numbers; null and missing are 0 and infinity.

    transformers writes infinity as {"__float__": "Infinity"}.
    """
    value = hf.get(name)
    if value is None:
        return 0.0, math.inf
    if isinstance(value, list | tuple) and len(value) == 2:
        found = [
            float(each["__float__"]) if isinstance(each, dict) and "__float__" in each else each
            for each in value
        ]
        if all(type(each) in (int, float) for each in found) and 0 <= found[0] <= found[1]:
            return float(found[0]), float(found[1])
    raise ValueError(f"{name} must be two numbers, the least and the largest, got {value!r}")


def limit_fields(name: str, value: tuple[float, float]) -> dict[str, Any]:
    """The inverse of limits; infinity is left out, because JSON has none."""
    if value == (0.0, math.inf):
        return {}
    return {name: [each if math.isfinite(each) else {"__float__": "Infinity"} for each in value]}
