"""Reads checkpoints of AWQ: four-bit numbers with a zero for each group, packed along the outputs.

https://github.com/casper-hansen/AutoAWQ, the version GEMM. Deliberately does not know models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from flaxen.tensors.quantized.integers import Integers, IntegerWeight, integer_tensor
from flaxen.tensors.quantized.modules import Parts, combined, named, need
from flaxen.tensors.quantized.outputs_last import ROW_UNIT, read_columns, read_words
from flaxen.tensors.quantized.words32 import unpack_words
from flaxen.tensors.tensor import StoredTensor

_PER_WORD = 8
_ORDER = np.array([0, 2, 4, 6, 1, 3, 5, 7])  # the output of each four bits of a word
_MIDDLE = np.uint8(8)
_USED = {"qweight", "qzeros", "scales"}


def check(fields: Mapping[str, Any]) -> None:
    """Refuses what can't be read.

    Raises:
      ValueError: the version, or another setting, is not supported.
    """
    version = str(fields.get("version", "gemm")).lower()
    if version != "gemm":
        raise ValueError(
            f"AWQ's version {version!r} is not supported: only gemm is. Quantize the model with "
            'version="GEMM", which is the default'
        )
    if _bits(fields) != 4:
        raise ValueError(
            f"AWQ with {_bits(fields)!r} bits is not supported: only 4 bits are. Use a checkpoint "
            "of 4 bits"
        )
    _group(fields)


def combine(
    fields: Mapping[str, Any], tensors: Mapping[str, StoredTensor]
) -> dict[str, StoredTensor]:
    """Makes one tensor of each quantized weight's; others are unchanged.

    Raises:
      ValueError: a tensor is missing, or does not fit to the weight.
    """

    def make(module: str, parts: Parts) -> StoredTensor | None:
        return _weight(module, parts, _group(fields)) if "qweight" in parts else None

    return combined(tensors, make, _USED)


def _bits(fields: Mapping[str, Any]) -> Any:
    return fields.get("bits", fields.get("w_bit"))


def _group(fields: Mapping[str, Any]) -> int:
    group = fields.get("group_size", fields.get("q_group_size"))
    if isinstance(group, bool) or not isinstance(group, int) or (group < 1 and group != -1):
        raise ValueError(f"group_size must be a number above 0, or -1 for one group, got {group!r}")
    return group


def _weight(module: str, parts: Parts, group: int) -> StoredTensor:
    qweight = parts["qweight"]
    num_inputs, num_words = qweight.shape
    num_outputs = num_words * _PER_WORD
    group = num_inputs if group == -1 else min(group, num_inputs)
    num_groups = -(-num_inputs // group)
    scales = need(module, parts, "scales", [(num_groups, num_outputs)])
    zeros = need(module, parts, "qzeros", [(num_groups, num_words)])
    weight = IntegerWeight(
        name=named(module, "weight"),
        shape=(num_outputs, num_inputs),
        bits=4,
        group=group,
        scale_dtype=np.dtype(np.float16) if scales.dtype == "F16" else np.dtype(np.float32),
        has_zeros=True,
        num_bytes=sum(parts[each].num_bytes for each in _USED),
        row_unit=ROW_UNIT,
    )

    def read(start: int, stop: int) -> Integers:
        own_scales = read_columns(scales, start, stop).T
        return Integers(_rows(qweight, start, stop), own_scales, _rows(zeros, start, stop))

    return integer_tensor(weight, read)


def _rows(tensor: StoredTensor, start: int, stop: int) -> np.ndarray:
    """Numbers [outputs, ...] from -8 to 7 of words [..., outputs / 8]."""
    words, first = read_words(tensor, _PER_WORD, start, stop)
    numbers = unpack_words(words, 4, words.shape[1] * _PER_WORD)
    in_order = numbers.reshape(words.shape[0], -1, _PER_WORD)[:, :, np.argsort(_ORDER)]
    rows = np.ascontiguousarray(
        in_order.reshape(words.shape[0], -1)[:, first:][:, : stop - start].T
    )
    return (rows - _MIDDLE).view(np.int8)
