"""Reads checkpoints of eight-bit floats: DeepSeek's and transformers' fp8, fbgemm and ModelOpt.

They differ in the name and shape of the scales. Activations are not quantized: see
docs/decisions/0293-quantized-checkpoints.md. Deliberately does not know models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.tensors.quantized.floats import float8_tensor
from flaxen.tensors.quantized.modules import Parts, combined
from flaxen.tensors.tensor import StoredTensor

_SCALES = ("weight_scale_inv", "weight_scale")
_OF_ACTIVATIONS = {
    "input_scale", "activation_scale", "input_scale_ub", "output_scale", "k_scale", "v_scale",
}  # fmt: skip


def check(fields: Mapping[str, Any]) -> None:
    """Refuses what can't be read.

    Raises:
      ValueError: the format of the floats, or the blocks, are not supported.
    """
    form = fields.get("fmt", "e4m3")
    if form != "e4m3":
        raise ValueError(
            f"fp8 with the format {form!r} is not supported: only e4m3 is. Quantize the model to it"
        )
    _block(fields)


def check_modelopt(fields: Mapping[str, Any]) -> None:
    """Refuses what can't be read of ModelOpt's checkpoints.

    Raises:
      ValueError: its algorithm is not FP8.
    """
    algorithm = fields.get("quant_algo") or (fields.get("quantization") or {}).get("quant_algo")
    if algorithm != "FP8":
        raise ValueError(
            f"ModelOpt's quant_algo {algorithm!r} is not supported: only FP8 is. Use a checkpoint "
            "in FP8, or in the format of compressed-tensors"
        )


def combine(
    fields: Mapping[str, Any], tensors: Mapping[str, StoredTensor]
) -> dict[str, StoredTensor]:
    """Makes one tensor of each quantized weight's; others are unchanged.

    Raises:
      ValueError: a tensor is missing, or does not fit to the weight.
    """
    block = _block(fields)

    def make(module: str, parts: Parts) -> StoredTensor | None:
        stored = parts.get("weight")
        if stored is None or stored.dtype != "F8_E4M3":
            return None
        name = next((each for each in _SCALES if each in parts), _SCALES[block is None])
        return float8_tensor(module, parts, name, block)

    return combined(tensors, make, {"weight", *_SCALES}, _OF_ACTIVATIONS)


def _block(fields: Mapping[str, Any]) -> tuple[int, int] | None:
    block = fields.get("weight_block_size")
    if block is None:
        return None
    is_pair = isinstance(block, list) and len(block) == 2
    if not is_pair or not all(isinstance(each, int) and each > 0 for each in block):
        raise ValueError(f"weight_block_size must be two numbers above 0, got {block!r}")
    return block[0], block[1]
