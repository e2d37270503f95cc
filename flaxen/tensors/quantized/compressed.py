"""Reads checkpoints of compressed-tensors (llm-compressor): integers and floats of four and eight
bits.

https://github.com/vllm-project/compressed-tensors. Activations that the checkpoint wants quantized
are not: see docs/decisions/0293-quantized-checkpoints.md. Deliberately does not know models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from flaxen.tensors.quantized import floats
from flaxen.tensors.quantized.integers import Integers, IntegerWeight, integer_tensor
from flaxen.tensors.quantized.modules import (
    Parts,
    combined,
    input_order,
    is_named,
    named,
    need,
    whole,
)
from flaxen.tensors.quantized.words32 import BITS, num_words, unpack_words
from flaxen.tensors.tensor import StoredTensor

_PACKED, _PLAIN = "weight_packed", "weight"
# Tensors that say how values are quantized, and have no place in the model themselves.
_USED = {"weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx", "weight_shape"}
_OF_ACTIVATIONS = {
    "input_scale", "input_zero_point", "input_global_scale", "output_scale", "output_zero_point",
    "k_scale", "k_zero_point", "v_scale", "v_zero_point", "q_scale", "q_zero_point",
}  # fmt: skip
_FORMATS = {
    "pack-quantized", "int-quantized", "naive-quantized", "float-quantized",
    "mxfp4-pack-quantized", "dense", "mixed-precision",
}  # fmt: skip
_STRATEGIES = ("tensor", "channel", "group", "block")


class Scheme(NamedTuple):
    """How the weights of some modules are quantized."""

    targets: tuple[str, ...]
    bits: int
    is_float: bool
    symmetric: bool
    group: int | None  # group_size
    block: tuple[int, int] | None  # block_structure: (out, in)


def check(fields: Mapping[str, Any]) -> None:
    """Refuses what can't be read.

    Raises:
      ValueError: the format or a scheme is not supported.
    """
    _check_format(fields.get("format"))
    sparsity = fields.get("sparsity_config") or {}
    if sparsity.get("format", "dense") != "dense":
        raise ValueError(
            f"sparsity_config has the format {sparsity['format']!r}, which is not supported: only "
            "dense weights are read. Use a checkpoint without sparsity"
        )
    if (fields.get("transform_config") or {}).get("config_groups"):
        raise ValueError(
            "transform_config turns activations while the model runs, which is not supported: use "
            "a checkpoint that was quantized without transforms (QuIP, SpinQuant)"
        )
    _schemes(fields)


def combine(
    fields: Mapping[str, Any], tensors: Mapping[str, StoredTensor]
) -> dict[str, StoredTensor]:
    """Makes one tensor of each quantized weight's; others are unchanged.

    Raises:
      ValueError: a tensor is missing, or does not fit to the weight or its scheme.
    """
    schemes = _schemes(fields)

    def make(module: str, parts: Parts) -> StoredTensor | None:
        if _PACKED not in parts and "weight_scale" not in parts:
            return None
        return _weight(module, parts, _scheme_of(module, schemes))

    return combined(tensors, make, {*_USED, _PLAIN}, _OF_ACTIVATIONS)


def _check_format(name: Any) -> None:
    if name is not None and name not in _FORMATS:
        raise ValueError(
            f"the format {name!r} of compressed-tensors is not supported: "
            f"{', '.join(sorted(_FORMATS))} are. Quantize the model to one of these"
        )


def _schemes(fields: Mapping[str, Any]) -> list[Scheme]:
    groups = fields.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise ValueError(
            "quantization_config of compressed-tensors has no config_groups, which say how weights "
            "are quantized: use a checkpoint of compressed-tensors 0.3 or later"
        )
    return [_scheme(name, each) for name, each in groups.items()]


def _scheme(name: str, group: Any) -> Scheme:
    if not isinstance(group, dict) or not isinstance(group.get("weights"), dict):
        raise ValueError(
            f"{name} of config_groups has no weights: only checkpoints whose weights are quantized "
            "can be read"
        )
    _check_format(group.get("format"))
    weights = group["weights"]
    bits, kind, strategy = (weights.get(each) for each in ("num_bits", "type", "strategy"))
    known = {"int": BITS, "float": (4, 8)}.get(kind or "int", ())
    if bits not in known or strategy not in (*_STRATEGIES, None):
        raise ValueError(
            f"{name} of config_groups has weights with num_bits {bits!r}, type {kind!r} and "
            f"strategy {strategy!r}, which is not supported: integers of 2, 4 or 8 bits and floats "
            f"of 8 bits or MXFP4 are, by {', '.join(_STRATEGIES)}"
        )
    block = weights.get("block_structure")
    return Scheme(
        targets=tuple(group.get("targets") or ("Linear",)),
        bits=bits,
        is_float=kind == "float",
        symmetric=weights.get("symmetric", True),
        group=weights.get("group_size"),
        block=None if block is None else (block[0], block[1]),
    )


def _scheme_of(module: str, schemes: list[Scheme]) -> Scheme:
    """The scheme whose targets name a module, or else the class of all linear layers."""
    for scheme in schemes:
        if is_named(module, scheme.targets):
            return scheme
    for scheme in schemes:  # names of classes, which tensors do not have
        if any(each[:1].isupper() for each in scheme.targets):
            return scheme
    raise ValueError(
        f"the weight of {module} is quantized, and no targets in config_groups of "
        "quantization_config name it: download config.json again"
    )


def _weight(module: str, parts: Parts, scheme: Scheme) -> StoredTensor:
    if _PACKED in parts and scheme.is_float:
        return floats.mxfp4_tensor(
            named(module, _PLAIN), parts[_PACKED], need_scales(module, parts, 32)
        )
    if _PACKED in parts:
        return _packed_integers(module, parts, scheme)
    stored = parts.get(_PLAIN)
    if stored is not None and stored.dtype == "F8_E4M3":
        return floats.float8_tensor(module, parts, "weight_scale", scheme.block, scheme.group)
    if stored is None or stored.dtype != "I8" or scheme.is_float:
        raise ValueError(
            f"tensor {named(module, _PLAIN)} has dtype {stored.dtype if stored else 'none'}, which "
            "is not what config_groups of quantization_config says: I8 or F8_E4M3 are supported"
        )
    return _plain_integers(module, parts, scheme)


def need_scales(module: str, parts: Parts, group: int) -> StoredTensor:
    """The scales of a packed weight of four-bit floats."""
    num_outputs, num_bytes = parts[_PACKED].shape
    return need(module, parts, "weight_scale", [(num_outputs, num_bytes * 2 // group)])


def _plain_integers(module: str, parts: Parts, scheme: Scheme) -> StoredTensor:
    stored = parts[_PLAIN]
    num_outputs, num_inputs = stored.shape
    weight, scales, zeros = _described(module, parts, scheme, (num_outputs, num_inputs))
    if zeros is not None:
        need(module, parts, "weight_zero_point", [scales.shape])

    def read(start: int, stop: int) -> Integers:
        numbers = stored.read(start, stop)
        if weight.order is not None:
            numbers = numbers[:, weight.order]
        own_zeros = None if zeros is None else _rows(zeros, start, stop)
        return Integers(numbers, _rows(scales, start, stop), own_zeros)

    return integer_tensor(weight, read)


def _packed_integers(module: str, parts: Parts, scheme: Scheme) -> StoredTensor:
    given = whole(need(module, parts, "weight_shape", [(2,)])).astype(int)
    shape = (int(given[0]), int(given[1]))
    packed = need(module, parts, _PACKED, [(shape[0], num_words(scheme.bits, shape[1]))])
    weight, scales, zeros = _described(module, parts, scheme, shape)
    middle = np.uint8(1 << (scheme.bits - 1))
    all_zeros: np.ndarray | None = None
    if zeros is not None:  # packed along the outputs: few, and read at once
        need(
            module,
            parts,
            "weight_zero_point",
            [(num_words(scheme.bits, shape[0]), scales.shape[1])],
        )
        all_zeros = (unpack_words(whole(zeros).T, scheme.bits, shape[0]) - middle).view(np.int8).T

    def read(start: int, stop: int) -> Integers:
        numbers = unpack_words(packed.read(start, stop), scheme.bits, shape[1]) - middle
        if weight.order is not None:
            numbers = numbers[:, weight.order]
        own_zeros = None if all_zeros is None else all_zeros[start:stop]
        return Integers(numbers.view(np.int8), _rows(scales, start, stop), own_zeros)

    return integer_tensor(weight, read)


def _described(
    module: str, parts: Parts, scheme: Scheme, shape: tuple[int, int]
) -> tuple[IntegerWeight, StoredTensor, StoredTensor | None]:
    """A weight of integers, its scales, and its zeros if it has any."""
    num_outputs, num_inputs = shape
    group = scheme.group if scheme.group and scheme.group > 0 else num_inputs
    group = min(group, num_inputs)
    shapes = {(num_outputs, -(-num_inputs // group)), (num_outputs,), (1,), ()}
    if group < num_inputs:
        shapes = {(num_outputs, -(-num_inputs // group))}
    scales = need(module, parts, "weight_scale", sorted(shapes))
    zeros = None if scheme.symmetric else parts.get("weight_zero_point")
    if zeros is None and not scheme.symmetric:
        need(module, parts, "weight_zero_point", [scales.shape])
    order = None
    if "weight_g_idx" in parts and group < num_inputs:
        groups_of = need(module, parts, "weight_g_idx", [(num_inputs,)])
        order = input_order(module, groups_of, group)
    used = [each for name, each in parts.items() if name in {*_USED, _PLAIN}]
    weight = IntegerWeight(
        name=named(module, _PLAIN),
        shape=shape,
        bits=4 if scheme.bits <= 4 else 8,
        group=group,
        scale_dtype=floats.DTYPES[scales.dtype],
        has_zeros=zeros is not None,
        num_bytes=sum(each.num_bytes for each in used),
        order=order,
    )
    return weight, scales, zeros


def _rows(tensor: StoredTensor, start: int, stop: int) -> np.ndarray:
    """Rows of scales or zeros [rows, groups]; those of the whole weight stand for each row."""
    if len(tensor.shape) == 2:
        return tensor.read(start, stop)
    if tensor.shape in ((), (1,)):
        return np.broadcast_to(whole(tensor).reshape(1, 1), (stop - start, 1))
    return tensor.read(start, stop)[:, None]
