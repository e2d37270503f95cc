"""The quantization methods of Hugging Face: which can be read, and how.

A checkpoint whose quantization_config can't be honoured is refused: its numbers without their
scales would be another model. Deliberately does not know families.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flaxen.tensors.quantized import awq, compressed, float8, gptq, mxfp4
from flaxen.tensors.tensor import StoredTensor

_FLOATS = ("F32", "F16", "BF16", "int4", "int8", "float8", "float4")


class Method(NamedTuple):
    """How checkpoints of a quantization method are read."""

    check: Callable[[Mapping[str, Any]], None]  # raises ValueError for settings not supported
    # (quantization_config, the files' tensors) -> tensors of the weights' values
    combine: Callable[[Mapping[str, Any], Mapping[str, StoredTensor]], dict[str, StoredTensor]]


METHODS: Mapping[str, Method] = {
    "compressed-tensors": Method(compressed.check, compressed.combine),
    "awq": Method(awq.check, awq.combine),
    "gptq": Method(gptq.check, gptq.combine),
    "fp8": Method(float8.check, float8.combine),
    "fbgemm_fp8": Method(float8.check, float8.combine),
    "modelopt": Method(float8.check_modelopt, float8.combine),
    "mxfp4": Method(mxfp4.check, mxfp4.combine),
}
_NAMES = ("quantization_config", "compression_config")  # the second is older


def quantization_fields(fields: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The quantization_config of a config.json, checked; None for a model that is not quantized.

    Raises:
      ValueError: its method or a setting is not supported.
    """
    given = next((fields[name] for name in _NAMES if fields.get(name) is not None), None)
    if given is None:
        return None
    method = given.get("quant_method") if isinstance(given, dict) else given
    if not isinstance(given, dict) or not isinstance(method, str) or method not in METHODS:
        raise ValueError(
            f"quantization_config names the method {method!r}, which is not supported: "
            f"{', '.join(METHODS)} are. Use the checkpoint before quantization (--quantization "
            "int8 or int4 quantizes it as it is loaded), or a GGUF file of it"
        )
    try:
        METHODS[method].check(given)
    except ValueError as error:
        raise ValueError(f"quantization_config ({method!r}): {error}") from None
    return given


def has_quantization(fields: Mapping[str, Any]) -> bool:
    """Whether a config.json says that the model is quantized."""
    return any(fields.get(name) is not None for name in _NAMES)


def without_quantization(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config.json of the same model before it was quantized."""
    return {name: value for name, value in fields.items() if name not in _NAMES}


def combine(
    given: Mapping[str, Any], tensors: Mapping[str, StoredTensor]
) -> dict[str, StoredTensor]:
    """The tensors of a checkpoint with one for each quantized weight.

    Args:
      given: its quantization_config, from `quantization_fields`.
      tensors: the files' tensors, of any dtype.

    Raises:
      ValueError: the tensors do not belong to the configuration.
    """
    found = METHODS[given["quant_method"]].combine(given, tensors)
    for name, tensor in found.items():
        if tensor.dtype not in _FLOATS:
            raise ValueError(
                f"tensor {name} has dtype {tensor.dtype}, and nothing in the files says what "
                f"its numbers stand for by the method {given['quant_method']!r} of "
                "quantization_config: the two do not belong together"
            )
    return found
