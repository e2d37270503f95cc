"""Weights of eight-bit floats (e4m3) and of MXFP4, as one stored tensor [out, in] each.

https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf defines MXFP4:
32 numbers of four bits (e2m1) share a power of two (e8m0). Deliberately does not know which tensors
of a file belong together: see the readers beside this file.
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np

from flaxen.tensors.packing.layout import Layout, WeightRows
from flaxen.tensors.quantized.groups import by_input, finer, kept_group
from flaxen.tensors.quantized.modules import Parts, named, need, whole
from flaxen.tensors.tensor import QuantizedRows, StoredTensor

MXFP4_GROUP = 32
DTYPES: Mapping[str, np.dtype] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
}
_E2M1 = np.array(
    [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32
)  # the value of each four bits


def float8_tensor(
    module: str,
    parts: Parts,
    scale_name: str,
    block: tuple[int, int] | None,
    group: int | None = None,
) -> StoredTensor:
    """A weight of eight-bit floats with a scale for the whole, each output, or each block.

    Args:
      module: its name.
      parts: its tensors, of which `weight` is F8_E4M3 [out, in].
      scale_name: the tensor with the scales.
      block: outputs and inputs that share a scale; None for no blocks.
      group: inputs of an output that share a scale; None for all.

    Raises:
      ValueError: the scales are missing, or have another shape.
    """
    stored = parts["weight"]
    num_outputs, num_inputs = stored.shape
    rows_of, group = block or (1, group or num_inputs)
    group = min(group, num_inputs)
    shapes: list[tuple[int, ...]] = [(-(-num_outputs // rows_of), -(-num_inputs // group))]
    if block is None and group == num_inputs:
        shapes += [(num_outputs,), (1, 1), (1,), ()]
    scales = need(module, parts, scale_name, shapes)

    def read(start: int, stop: int) -> np.ndarray:
        values = stored.read(start, stop).astype(np.float32)
        values *= by_input(scale_rows(scales, rows_of, start, stop), group, num_inputs)
        return values

    kept = kept_group(num_inputs, group)

    def read_kept(start: int, stop: int) -> WeightRows:
        assert kept is not None
        bits = stored.read(start, stop).view(np.uint8)
        _refuse_nan(stored.name, bits & 0x7F, 0x7F)
        per_group = scale_rows(scales, rows_of, start, stop)
        per_group = finer(per_group, -(-group // kept), num_inputs // kept)
        return WeightRows(bits, np.ascontiguousarray(per_group))

    quantized = None
    if kept is not None:
        layout = Layout(format="float8", group=kept, scale_dtype=np.dtype(np.float32))
        quantized = QuantizedRows(layout=layout, read=read_kept)
    return StoredTensor(
        name=named(module, "weight"),
        shape=stored.shape,
        dtype="float8",
        num_bytes=stored.num_bytes + scales.num_bytes,
        read=read,
        quantized=quantized,
    )


def scale_rows(scales: StoredTensor, rows_of: int, start: int, stop: int) -> np.ndarray:
    """The scales of outputs from start to stop: float32 [rows, groups].

    Args:
      scales: [out / rows_of, groups], or one for each output, or one for all.
      rows_of: outputs that share a scale.
      start: the first output.
      stop: the one after the last.
    """
    if scales.shape in ((), (1,), (1, 1)):
        return np.broadcast_to(whole(scales).reshape(1, 1).astype(np.float32), (stop - start, 1))
    first = start // rows_of
    found = scales.read(first, -(-stop // rows_of)).astype(np.float32)
    found = found.reshape(found.shape[0], -1)
    rows: np.ndarray = found[np.arange(start, stop) // rows_of - first]
    return rows


def mxfp4_tensor(name: str, blocks: StoredTensor, scales: StoredTensor) -> StoredTensor:
    """A weight of MXFP4.

    Args:
      name: of the weight.
      blocks: uint8 [out, in / 2], or [out, in / 32, 16]: two numbers each, the first in the lower
          bits.
      scales: uint8 [out, in / 32], the exponent of a power of two plus 127.
    """
    num_outputs, num_groups = scales.shape
    num_inputs = num_groups * MXFP4_GROUP
    assert blocks.shape in ((num_outputs, num_inputs // 2), (num_outputs, num_groups, 16))

    def read(start: int, stop: int) -> np.ndarray:
        packed = blocks.read(start, stop).reshape(stop - start, -1)
        numbers = np.stack([packed & 15, packed >> 4], axis=-1).reshape(stop - start, -1)
        exponents = scales.read(start, stop).view(np.uint8).astype(np.int32) - 127
        powers = np.ldexp(np.float32(1), exponents)
        values: np.ndarray = _E2M1[numbers] * by_input(powers, MXFP4_GROUP, num_inputs)
        return values

    def read_kept(start: int, stop: int) -> WeightRows:
        packed = np.ascontiguousarray(blocks.read(start, stop).reshape(stop - start, -1))
        exponents = scales.read(start, stop).view(np.uint8)
        _refuse_nan(scales.name, exponents, 255)
        return WeightRows(packed.view(np.uint32), exponents)

    layout = Layout(format="float4", group=MXFP4_GROUP, scale_dtype=np.dtype(np.uint8))
    return StoredTensor(
        name=name,
        shape=(num_outputs, num_inputs),
        dtype="float4",
        num_bytes=blocks.num_bytes + scales.num_bytes,
        read=read,
        quantized=QuantizedRows(layout=layout, read=read_kept),
    )


def _refuse_nan(name: str, numbers: np.ndarray, nan: int) -> None:
    if (numbers == nan).any():
        raise ValueError(
            f"tensor {name} has numbers that stand for NaN: no token could be computed with them. "
            "Download the checkpoint again, or quantize the model again"
        )
