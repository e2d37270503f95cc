"""Reads a config.json: the family that it names, and the decoder's configuration.

Deliberately does not know weights: this is all that there is to know of a model without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flaxen.families import FAMILIES, Family, UnknownFamilyError, find_family
from flaxen.hub.weight_files import read_json
from flaxen.models.config import DecoderConfig
from flaxen.tensors.quantized.methods import (
    has_quantization,
    quantization_fields,
    without_quantization,
)
from flaxen.weights.huggingface.architecture import architecture
from flaxen.weights.huggingface.classifier import base_architecture

# Where writers of quantized checkpoints put what others put in config.json, and their methods.
_OWN_FILES = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "hf_quant_config.json": "modelopt",
}


class QuantizedConfig(NamedTuple):
    """What a config.json says of a model in files whose weights may be quantized."""

    family: Family
    config: DecoderConfig
    quantization: Mapping[str, Any] | None  # its quantization_config; None for plain weights


def read_config(file: Path) -> tuple[Family, DecoderConfig]:
    """Reads a config.json of plain weights.

    Raises:
      ValueError: it can't be read, or the family or a field is not supported; a family that is not
        known is an UnknownFamilyError.
    """
    return _read(file, read_json(file))


def read_quantized_config(file: Path) -> QuantizedConfig:
    """Reads a config.json that has weights beside it, which may be quantized.

    Raises:
      ValueError: as in `read_config`; or the quantization is not supported.
    """
    fields = read_json(file)
    family, config = _read(file, without_quantization(fields))
    fields = _with_own_file(file.parent, fields)
    try:
        return QuantizedConfig(family, config, quantization_fields(fields))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _with_own_file(directory: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields, with the quantization of a file of its own if config.json says nothing of it."""
    if has_quantization(fields):
        return fields
    for name, method in _OWN_FILES.items():
        if (directory / name).is_file():
            own = {"quant_method": method, **read_json(directory / name)}
            return {**fields, "quantization_config": own}
    return fields


def _read(file: Path, fields: dict[str, Any]) -> tuple[Family, DecoderConfig]:
    try:
        family = _family(fields)
        return family, family.config_from_hf(fields)
    except ValueError as error:
        raise type(error)(f"{file}: {error}") from None


def _family(fields: dict[str, Any]) -> Family:
    name = base_architecture(architecture(fields))
    try:
        return find_family(name)
    except UnknownFamilyError:
        inner = fields.get("text_config")
        text = FAMILIES.get(str(inner.get("model_type"))) if isinstance(inner, dict) else None
        if text is None:
            raise
    raise UnknownFamilyError(
        f"the architecture {name!r} reads more than text, which is not supported. Its text model "
        f"is: save it in a directory of its own, with transformers as {text.architecture}"
    )
