"""Reads checkpoints of MXFP4 as GPT-OSS has them: `NAME_blocks` and `NAME_scales` for each weight.

Deliberately does not know models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.tensors.quantized.floats import MXFP4_GROUP, mxfp4_tensor
from flaxen.tensors.quantized.modules import need
from flaxen.tensors.tensor import StoredTensor
from flaxen.tensors.views import stacked, unstacked

_BLOCKS, _SCALES = "_blocks", "_scales"


def check(fields: Mapping[str, Any]) -> None:
    """Accepts every setting: there are none."""


def combine(
    fields: Mapping[str, Any], tensors: Mapping[str, StoredTensor]
) -> dict[str, StoredTensor]:
    """Makes one tensor NAME of each NAME_blocks and NAME_scales; others are unchanged.

    A stack of experts [experts, out, in / 32, 16] becomes a tensor [experts, out, in].

    Raises:
      ValueError: scales are missing, or have another shape.
    """
    found: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        base = name.removesuffix(_BLOCKS)
        if base != name:
            *lead, num_groups, _ = tensor.shape
            scales = need("", tensors, base + _SCALES, [(*lead, num_groups)])
            found[base] = _weight(base, tensor, scales)
        elif name.removesuffix(_SCALES) + _BLOCKS not in tensors or not name.endswith(_SCALES):
            found[name] = tensor
    return found


def experts(name: str, blocks: StoredTensor, scales: StoredTensor) -> list[StoredTensor]:
    """The weight [out, in] of each expert.

    Args:
      name: of their stack.
      blocks: uint8 [experts, out, in / 32, 16].
      scales: uint8 [experts, out, in / 32].
    """
    return [
        mxfp4_tensor(name, *pair) for pair in zip(unstacked(blocks), unstacked(scales), strict=True)
    ]


def _weight(name: str, blocks: StoredTensor, scales: StoredTensor) -> StoredTensor:
    if blocks.shape[-1] != MXFP4_GROUP // 2:
        raise ValueError(
            f"tensor {blocks.name} has shape {list(blocks.shape)}: the last axis must be the "
            f"{MXFP4_GROUP // 2} bytes of a block"
        )
    if len(blocks.shape) == 4:
        return stacked(experts(name, blocks, scales))
    return mxfp4_tensor(name, blocks, scales)
