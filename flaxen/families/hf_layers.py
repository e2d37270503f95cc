"""Reads and writes what differs by the kind of a layer: layer_types, with windows and ropes.

Deliberately does not know any family, nor files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flaxen.families import hf
from flaxen.families.hf_rope import rope_config, rope_fields
from flaxen.families.hf_values import listed_kinds, whole
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import Attention
from flaxen.models.layers.block import LayerConfig
from flaxen.models.rope_config import RopeConfig

FULL, SLIDING = "full_attention", "sliding_attention"
ROPE_FIELDS = ("rope_theta", "rope_scaling", "partial_rotary_factor")  # what rope_fields writes


def layer_kinds(fields: Mapping[str, Any], *, pattern: int) -> tuple[str, ...]:
    """The kind of each layer: layer_types, or without it one full layer after each `pattern` - 1
    that slide.

    Args:
      fields: those of config.json; `sliding_window_pattern` takes the place of `pattern`.
      pattern: the family's own.

    Raises:
      ValueError: layer_types has an unknown kind or another length.
    """
    count, kinds = hf.num_layers(fields), fields.get("layer_types")
    if kinds is None:
        every = whole(fields, "sliding_window_pattern", default=pattern)
        return tuple(SLIDING if (i + 1) % every else FULL for i in range(count))
    return listed_kinds(kinds, count, (FULL, SLIDING))


def with_kinds(
    config: DecoderConfig, kinds: tuple[str, ...], changes: Mapping[str, Mapping[str, Any]]
) -> DecoderConfig:
    """The decoder with fields of Attention changed in the layers of each kind."""

    def changed(number: int, layer: LayerConfig) -> LayerConfig:
        assert isinstance(layer.mixer, Attention)
        return replace(layer, mixer=replace(layer.mixer, **changes.get(kinds[number], {})))

    return config.with_layers(changed)


def sliding_window(fields: Mapping[str, Any], kinds: tuple[str, ...]) -> int | None:
    """The window of the layers that slide; None if none does."""
    return whole(fields, "sliding_window") if SLIDING in kinds else None


def kind_fields(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of layer_kinds and sliding_window, for layers with one common window."""
    window = next((each for each in hf.windows(config) if each is not None), None)
    return {"layer_types": hf.layer_types(config), "sliding_window": window}


def ropes(fields: Mapping[str, Any], thetas: Mapping[str, float]) -> dict[str, RopeConfig] | None:
    """The rope of each kind of layer in rope_parameters; None without this field.

    Args:
      fields: those of config.json.
      thetas: of each kind, where its rope_theta is missing.

    Raises:
      ValueError: rope_parameters does not tell the kinds apart, or is not supported.
    """
    given = fields.get("rope_parameters")
    if not given:
        return None
    if not isinstance(given, Mapping) or not given.keys() <= thetas.keys():
        raise ValueError(
            f"rope_parameters must have an entry for each kind of layer ({', '.join(thetas)}), got "
            f"{given!r}"
        )
    shared = {name: value for name, value in fields.items() if name != "rope_scaling"}
    return {
        kind: kind_rope({**shared, "rope_theta": theta, "rope_parameters": given.get(kind) or {}})
        for kind, theta in thetas.items()
    }


def kind_rope(fields: Mapping[str, Any]) -> RopeConfig:
    """The rope of one kind of layer, of several. transformers looks for `truncate` beside the
    kinds, where no file has it, and so takes its default.
    """
    return replace(rope_config(fields), truncate=True)


def nested_fields(ropes: Mapping[str, RopeConfig | None]) -> dict[str, dict[str, Any]]:
    """The inverse of `ropes`: rope_parameters with an entry for each kind of layer."""
    return {kind: {} if rope is None else _nested(rope) for kind, rope in ropes.items()}


def _nested(rope: RopeConfig) -> dict[str, Any]:
    found = rope_fields(rope)
    return {"rope_type": "default", **found.pop("rope_scaling", {}), **found}


def rope_of(config: DecoderConfig) -> dict[str, Any]:
    """The fields of the first rope in the layers; {} if no layer has one."""
    return next((rope_fields(each) for each in layer_ropes(config) if each is not None), {})


def layer_ropes(config: DecoderConfig) -> tuple[RopeConfig | None, ...]:
    """The rope of each layer."""
    return tuple(
        layer.mixer.rope if isinstance(layer.mixer, Attention) else None for layer in config.layers
    )
