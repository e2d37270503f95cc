"""Reads an adapter's configuration in PEFT's format, and refuses unsupported fields.

Deliberately does not know tensors, nor models.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxen.hub.weight_files import read_json
from flaxen.models.adapters import LoraConfig
from flaxen.weights.adapters.selection import Strength

_MAX_CONFIG_BYTES = 1 << 20
# Fields whose values never change the result of a trained adapter.
_BOOKKEEPING = {
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "lora_dropout", "megatron_core", "qalora_group_size", "ensure_weight_tying",
}  # fmt: skip
_READ = {
    "peft_type", "r", "lora_alpha", "use_rslora", "target_modules", "exclude_modules",
    "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "init_lora_weights",
    "fan_in_fan_out",
}  # fmt: skip
# Other initialisations also change the base weights, and the stored adapter is relative to those.
_INITS = (True, False, None, "gaussian", "orthogonal", "eva")


def read_config(path: Path) -> dict[str, Any]:
    """Reads the fields of adapter_config.json, and checks that all are known.

    Raises:
      ValueError: the file is missing, damaged or too large, is not LoRA, or has an unsupported
          field that would change the result.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist: {path.parent} is no PEFT adapter's directory")
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise ValueError(
            f"{path} has {path.stat().st_size} bytes, over {_MAX_CONFIG_BYTES}: it is no adapter's "
            "configuration"
        )
    fields = read_json(path)
    if fields.get("peft_type") != "LORA":
        raise ValueError(
            f"{path}: peft_type {fields.get('peft_type')!r} is not supported: only LORA is"
        )
    for name, value in fields.items():
        known = name in _BOOKKEEPING or name in _READ or (name, value) == ("bias", "none")
        if not known and value not in (None, False, {}, []):
            raise ValueError(
                f"{path}: {name} = {value!r} is not supported, and leaving it out would change the "
                "result: only plain LoRA of linear layers is"
            )
    if fields.get("init_lora_weights") not in _INITS:
        raise ValueError(
            f"{path}: init_lora_weights = {fields['init_lora_weights']!r} is not supported, as it "
            "also changes the base's weights: convert the adapter to plain LoRA with peft's "
            "save_pretrained(path_initial_model_for_weight_conversion=...)"
        )
    return fields


def lora_config(
    fields: Mapping[str, Any],
    targets: tuple[str, ...],
    strengths: Mapping[str, Strength],
    max_rank: int | None,
) -> LoraConfig:
    """One configuration for all modules: the highest rank, with its alpha.

    Raises:
      ValueError: a rank is above `max_rank`, or a field has the wrong type.
    """
    use_rslora = fields.get("use_rslora") or False
    if not isinstance(use_rslora, bool):
        raise ValueError(f"use_rslora must be true or false, got {use_rslora!r}")
    if not strengths:
        raise ValueError("target_modules names no module: the adapter adapts nothing")
    highest = max(strengths.values())
    if max_rank is not None and highest.rank > max_rank:
        raise ValueError(
            f"r is {highest.rank}, and at most {max_rank} is allowed here: raise max_lora_rank"
        )
    return LoraConfig(
        rank=highest.rank, alpha=highest.alpha, targets=targets, use_rslora=use_rslora
    )
