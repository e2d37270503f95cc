"""Reads rope settings from config.json in all spellings, and writes them.

`rope_theta` and `rope_scaling` (with "type", later "rope_type") at the top level, and the one
dict `rope_parameters` that holds both. The older spelling is written, because all readers know it.
Deliberately does not know what the kinds compute.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flaxen.models.rope_config import FIELDS, RopeConfig

_KNOWN = {
    "rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings",
    "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "attention_factor",
    "mscale", "mscale_all_dim", "truncate", "partial_rotary_factor", "short_factor", "long_factor",
    "finetuned",  # whether the model was trained with it
}  # fmt: skip
_HF_NAMES = {
    "original_max_position": "original_max_position_embeddings",
    "short_factors": "short_factor",
    "long_factors": "long_factor",
}
_NOT_WRITTEN = {"context"}  # it is how the model is used


def rope_fields(rope: RopeConfig) -> dict[str, Any]:
    """The inverse of rope_config: rope_theta and, if needed, rope_scaling and the rotated part."""
    found: dict[str, Any] = {"rope_theta": rope.theta}
    if rope.partial != 1:
        found["partial_rotary_factor"] = rope.partial
    if rope.kind == "default":
        return found
    scaling: dict[str, Any] = {"rope_type": rope.kind}
    for name in FIELDS[rope.kind]:
        value = getattr(rope, name)
        is_unset = value is None or (name in ("mscale", "mscale_all_dim") and value == 0)
        if not is_unset and name not in _NOT_WRITTEN:
            scaling[_HF_NAMES.get(name, name)] = list(value) if type(value) is tuple else value
    if rope.kind == "dynamic":  # it is max_position_embeddings
        del scaling["original_max_position_embeddings"]
    return found | {"rope_scaling": scaling}


def rope_config(
    hf: Mapping[str, Any],
    *,
    default_partial: float | None = None,
    partial_name: str = "partial_rotary_factor",
    interleaved: bool = False,
) -> RopeConfig:
    """The rotary embedding of a configuration.

    Args:
      hf: the fields of config.json.
      default_partial: the rotated part of a head where the field is missing, for families that
          rotate a part; None for families that rotate all.
      partial_name: of that field.
      interleaved: as in RopeConfig.

    Raises:
      ValueError: a kind or field is unknown, a required field is missing, or a value is invalid.
    """
    rope = _scaling_of(hf)
    unknown = sorted(name for name in rope.keys() - _KNOWN if rope[name] is not None)
    if unknown:
        raise ValueError(
            f"rope field {unknown[0]} = {rope[unknown[0]]!r} is not supported, and "
            "leaving it out would change the result"
        )
    found = _of_kind(hf, rope)
    partial = _number(
        rope, "partial_rotary_factor", _number(hf, partial_name, default_partial or 1.0)
    )
    if default_partial is None and partial != 1:
        raise ValueError(
            f"partial_rotary_factor = {partial!r} is not supported: heads of this family are "
            "rotated whole"
        )
    return replace(found, partial=partial, interleaved=interleaved)


def _of_kind(hf: Mapping[str, Any], rope: Mapping[str, Any]) -> RopeConfig:
    """The rope of its kind, which rotates all of a head."""
    kind = rope.get("rope_type") or rope.get("type") or "default"
    theta = _positive(rope, "rope_theta", _positive(hf, "rope_theta", 10_000.0))
    if kind == "default":
        return RopeConfig(theta=theta)
    if kind == "linear":
        return RopeConfig(kind="linear", theta=theta, factor=_positive(rope, "factor"))
    original = _original_max_position(hf, rope)
    if kind == "llama3":
        low, high = _positive(rope, "low_freq_factor"), _positive(rope, "high_freq_factor")
        if low > high:
            raise ValueError(
                f"low_freq_factor must not be above high_freq_factor, got {low:g} and {high:g}"
            )
        return RopeConfig(
            kind="llama3",
            theta=theta,
            factor=_positive(rope, "factor"),
            original_max_position=original,
            low_freq_factor=low,
            high_freq_factor=high,
        )
    if kind == "yarn":
        if theta <= 1:
            raise ValueError(f"rope kind yarn needs a rope_theta above 1, got {theta:g}")
        ratio = _positive(hf, "max_position_embeddings") / original if original else None
        return RopeConfig(
            kind="yarn",
            theta=theta,
            factor=_positive(rope, "factor", ratio),
            original_max_position=original,
            beta_fast=_positive(rope, "beta_fast", 32.0),
            beta_slow=_positive(rope, "beta_slow", 1.0),
            attention_factor=_optional_number(rope, "attention_factor"),
            mscale=_number(rope, "mscale", 0.0),
            mscale_all_dim=_number(rope, "mscale_all_dim", 0.0),
            truncate=_truncate(rope),
        )
    if kind in ("longrope", "su"):
        ratio = _positive(hf, "max_position_embeddings") / original if original else None
        return RopeConfig(
            kind="longrope",
            theta=theta,
            factor=_positive(rope, "factor", ratio),
            original_max_position=original,
            attention_factor=_optional_number(rope, "attention_factor"),
            short_factors=_factors(rope, "short_factor"),
            long_factors=_factors(rope, "long_factor"),
        )
    if kind == "dynamic":
        longest = int(_positive(hf, "max_position_embeddings"))
        factor = _positive(rope, "factor")
        return RopeConfig(kind="dynamic", theta=theta, factor=factor, original_max_position=longest)
    raise ValueError(
        f"rope kind {kind!r} is not supported: {', '.join(FIELDS)} are. Leaving it "
        "out would change the result"
    )


def _scaling_of(hf: Mapping[str, Any]) -> Mapping[str, Any]:
    found = [name for name in ("rope_scaling", "rope_parameters") if hf.get(name)]
    for name in found:
        if not isinstance(hf[name], dict):
            raise ValueError(f"{name} must be an object, got {hf[name]!r}")
    if len(found) == 2 and hf["rope_scaling"] != hf["rope_parameters"]:
        raise ValueError(
            "the configuration has both rope_scaling and rope_parameters, and they differ: keep one"
        )
    return hf[found[0]] if found else {}


def _original_max_position(hf: Mapping[str, Any], rope: Mapping[str, Any]) -> int:
    # transformers gives the top level priority, and its default is the whole context.
    for fields, name in (
        (hf, "original_max_position_embeddings"),
        (rope, "original_max_position_embeddings"),
        (hf, "max_position_embeddings"),
    ):
        if fields.get(name) is not None:
            return int(_positive(fields, name))
    return 0


def _optional_number(fields: Mapping[str, Any], name: str) -> float | None:
    return None if fields.get(name) is None else _number(fields, name)


def _number(fields: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = fields.get(name)
    if value is None:
        if default is None:
            raise ValueError(f"this rope kind needs {name}, which is missing")
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a number, got {value!r}")
    return float(value)


def _positive(fields: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = _number(fields, name, default)
    if value <= 0:
        raise ValueError(f"{name} must be above 0, got {value:g}")
    return value


def _factors(rope: Mapping[str, Any], name: str) -> tuple[float, ...]:
    values = rope.get(name)
    if not isinstance(values, list | tuple) or not values:
        raise ValueError(f"{name} must be a list with a number for each pair, got {values!r}")
    return tuple(_positive({name: value}, name) for value in values)


def _truncate(rope: Mapping[str, Any]) -> bool:
    value = rope.get("truncate")
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"truncate must be true or false, got {value!r}")
    return value is not False
