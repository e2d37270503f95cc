"""Reads checkpoints of GPTQ: numbers of two, four or eight bits, packed along the inputs.

https://github.com/ModelCloud/GPTQModel. In the first version of the format a stored zero is one
too small. With desc_act, g_idx says to which group each input belongs; then inputs are kept in the
order of their groups. Deliberately does not know models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from flaxen.tensors.quantized.integers import Integers, IntegerWeight, integer_tensor
from flaxen.tensors.quantized.modules import (
    Parts,
    combined,
    input_order,
    named,
    need,
)
from flaxen.tensors.quantized.outputs_last import ROW_UNIT, read_columns, read_words
from flaxen.tensors.quantized.words32 import BITS, unpack_words
from flaxen.tensors.tensor import StoredTensor

_USED = {"qweight", "qzeros", "scales", "g_idx"}


class _Settings(NamedTuple):
    bits: int
    group: int  # -1 for one group
    symmetric: bool
    added: int  # to a stored zero


def check(fields: Mapping[str, Any]) -> None:
    """Refuses what can't be read.

    Raises:
      ValueError: the format, or another setting, is not supported.
    """
    _settings(fields)
    dynamic = fields.get("dynamic") or {}
    changed = [name for name in dynamic if not name.startswith("-:")]
    if changed:
        raise ValueError(
            f"dynamic gives the modules {changed[0]!r} settings of their own, which is not "
            "supported: quantize all modules alike, or leave some out with '-:'"
        )


def combine(
    fields: Mapping[str, Any], tensors: Mapping[str, StoredTensor]
) -> dict[str, StoredTensor]:
    """Makes one tensor of each quantized weight's; others are unchanged.

    Raises:
      ValueError: a tensor is missing, or does not fit to the weight.
    """
    settings = _settings(fields)

    def make(module: str, parts: Parts) -> StoredTensor | None:
        return _weight(module, parts, settings) if "qweight" in parts else None

    return combined(tensors, make, _USED)


def _settings(fields: Mapping[str, Any]) -> _Settings:
    form = fields.get("checkpoint_format", "gptq")
    if form not in ("gptq", "gptq_v2"):
        raise ValueError(
            f"GPTQ's checkpoint_format {form!r} is not supported: gptq and gptq_v2 are. Save the "
            "model in one of these"
        )
    bits, group = fields.get("bits"), fields.get("group_size")
    if bits not in BITS:
        raise ValueError(
            f"GPTQ with {bits!r} bits is not supported: {', '.join(map(str, BITS))} bits are. Use "
            "a checkpoint of 4 bits"
        )
    if isinstance(group, bool) or not isinstance(group, int) or (group < 1 and group != -1):
        raise ValueError(f"group_size must be a number above 0, or -1 for one group, got {group!r}")
    if fields.get("pack_dtype", "int32") != "int32":
        raise ValueError(
            f"GPTQ's pack_dtype {fields['pack_dtype']!r} is not supported: only int32 is. Save the "
            "model with it"
        )
    return _Settings(int(bits), group, bool(fields.get("sym", False)), int(form == "gptq"))


def _weight(module: str, parts: Parts, settings: _Settings) -> StoredTensor:
    qweight, bits = parts["qweight"], settings.bits
    per_word = 32 // bits
    num_inputs, num_outputs = qweight.shape[0] * per_word, qweight.shape[1]
    group = num_inputs if settings.group == -1 else min(settings.group, num_inputs)
    num_groups = -(-num_inputs // group)
    scales = need(module, parts, "scales", [(num_groups, num_outputs)])
    zeros = need(module, parts, "qzeros", [(num_groups, -(-num_outputs // per_word))])
    order = None
    if "g_idx" in parts and group < num_inputs:
        order = input_order(module, need(module, parts, "g_idx", [(num_inputs,)]), group)
    weight = IntegerWeight(
        name=named(module, "weight"),
        shape=(num_outputs, num_inputs),
        bits=4 if bits <= 4 else 8,
        group=group,
        scale_dtype=np.dtype(np.float16) if scales.dtype == "F16" else np.dtype(np.float32),
        has_zeros=not settings.symmetric,
        num_bytes=sum(each.num_bytes for name, each in parts.items() if name in _USED),
        row_unit=ROW_UNIT,
        order=order,
    )
    middle = np.uint8(1 << (bits - 1))

    def read(start: int, stop: int) -> Integers:
        words = np.ascontiguousarray(read_columns(qweight, start, stop).T)
        numbers = (unpack_words(words, bits, num_inputs) - middle).view(np.int8)
        if order is not None:
            numbers = numbers[:, order]
        own_zeros = _zeros(zeros, settings, start, stop)
        if settings.symmetric:
            _check_symmetric(zeros, own_zeros)
        own_scales = read_columns(scales, start, stop).T
        return Integers(numbers, own_scales, None if settings.symmetric else own_zeros)

    return integer_tensor(weight, read)


def _zeros(zeros: StoredTensor, settings: _Settings, start: int, stop: int) -> np.ndarray:
    """int8 [outputs, groups], less the middle of the numbers."""
    per_word, mask = 32 // settings.bits, np.uint8((1 << settings.bits) - 1)
    words, first = read_words(zeros, per_word, start, stop)
    numbers = unpack_words(words, settings.bits, words.shape[1] * per_word)
    own = numbers[:, first : first + stop - start].T + np.uint8(settings.added) & mask
    return (own - np.uint8(1 << (settings.bits - 1))).view(np.int8)


def _check_symmetric(zeros: StoredTensor, own: np.ndarray) -> None:
    if own.any():
        raise ValueError(
            f"tensor {zeros.name} has zeros that are not in the middle, and quantization_config "
            'says "sym": true: set it to false in config.json if the checkpoint is asymmetric, or '
            'its "checkpoint_format" to the right one of gptq and gptq_v2'
        )
