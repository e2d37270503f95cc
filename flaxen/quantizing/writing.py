"""Writes a model with quantized weights as a directory of compressed-tensors, for flaxen, vLLM and
transformers.

https://github.com/vllm-project/compressed-tensors. A family's rules name the tensors: they are
applied to a weight's numbers and to its scales alike. Deliberately does not know calibration.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from flaxen.families import hf_fields
from flaxen.families.rules import tensor_of
from flaxen.hub.weight_files import SINGLE
from flaxen.quantizing.schemes import FLOAT8, Quantized, Scheme
from flaxen.tensors.tensor import StoredTensor
from flaxen.weights.atomic import new_directory
from flaxen.weights.casting import cast_rows
from flaxen.weights.checkpoint import Checkpoint
from flaxen.weights.file_tensors import rows_of_sources
from flaxen.weights.huggingface.tokenizer import write_tokenizer
from flaxen.weights.rules import Place, place_rules, write_tensors
from flaxen.weights.safetensors_writer import Leaf, write_in_turn

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_WEIGHT = ".weight"


class Tensors(NamedTuple):
    """What the file holds, and the modules whose weights are as they were."""

    leaves: list[Leaf]
    ignored: list[str]


def write_quantized(
    directory: Path,
    checkpoint: Checkpoint,
    source: Path,
    layers: Sequence[Mapping[str, Quantized]],
    scheme: Scheme,
) -> None:
    """Writes config.json, the weights and the tokenizer, atomically.

    Args:
      directory: the new directory's name; it must not exist or be empty.
      checkpoint: the model; what is not quantized is read from its files.
      source: its directory or .gguf file, from which the tokenizer comes.
      layers: the quantized weights of each layer.
      scheme: how they are quantized.

    Raises:
      ValueError: the directory is not empty, or the family's files can't have such weights.
      OSError: a file can't be written.
    """
    tensors = file_leaves(checkpoint, layers, scheme)
    dtype = _plain_dtype(checkpoint).name
    fields = {**hf_fields(checkpoint.family, checkpoint.config), "dtype": dtype}
    fields |= {"torch_dtype": dtype, "quantization_config": config_of(scheme, tensors.ignored)}
    with new_directory(directory) as filling:
        fields |= write_tokenizer(filling, source)
        text = json.dumps(fields, indent=2, sort_keys=True) + "\n"
        (filling / "config.json").write_text(text, encoding="utf-8")
        write_in_turn(filling / SINGLE, tensors.leaves, {"format": "pt"})


def config_of(scheme: Scheme, ignored: Sequence[str]) -> dict[str, Any]:
    """The quantization_config of config.json."""
    return {
        "quant_method": "compressed-tensors",
        "format": scheme.format,
        "quantization_status": "compressed",
        "config_groups": {"group_0": scheme.config_group()},
        "ignore": list(ignored),
        "kv_cache_scheme": None,
    }


def file_leaves(
    checkpoint: Checkpoint, layers: Sequence[Mapping[str, Quantized]], scheme: Scheme
) -> Tensors:
    """The tensors of the file.

    Raises:
      ValueError: the family's rules don't keep the groups of a weight's inputs together.
    """
    config, rules = checkpoint.config, checkpoint.family.hf_rules
    rows = rows_of_sources(checkpoint.model.param_specs, checkpoint.sources.params)
    leaves: list[Leaf] = []
    ignored = [] if config.tied_embeddings else [_module(tensor_of(rules, "unembed"))]
    ignored = ignored or ["lm_head"]
    for place in place_rules(rules, checkpoint.model.param_specs, config.sizes):
        names = place.rule.params
        own = {} if place.layer is None else layers[place.layer]
        if all(name in own for name in names):
            leaves += _quantized_leaves(place, [own[name] for name in names], scheme)
            continue
        params = [rows(place.layer, name, place.rule.transposed) for name in names]
        written = write_tensors(place.rule.steps, params, place.sizes)
        dtype = _plain_dtype(checkpoint)
        leaves += [
            _plain_leaf(name, each, dtype) for name, each in zip(place.shapes, written, strict=True)
        ]
        if any(spec.role in ("matrix", "experts") for spec in place.specs):
            ignored += [_module(name) for name in place.shapes if name.endswith(_WEIGHT)]
    return Tensors(leaves, ignored)


def _plain_dtype(checkpoint: Checkpoint) -> np.dtype:
    return np.dtype(checkpoint.dtype)


def _plain_leaf(name: str, stored: StoredTensor, dtype: np.dtype) -> Leaf:
    def read() -> np.ndarray:
        return cast_rows(name, stored.read(0, stored.shape[0]), dtype)

    return Leaf(name, stored.shape, dtype, read)


def _quantized_leaves(place: Place, weights: Sequence[Quantized], scheme: Scheme) -> Iterator[Leaf]:
    """The tensors of one rule's weights, whose numbers and scales take the same way."""
    if not place.rule.transposed:
        raise ValueError(
            f"{next(iter(place.shapes))} is stored as [in, out] in files of this family, which "
            "compressed-tensors can't quantize: use another model, or --quantization at load"
        )
    numbers = write_tensors(
        place.rule.steps, [_in_memory(each.numbers) for each in weights], place.sizes
    )
    scales = write_tensors(
        place.rule.steps, [_in_memory(each.spread_scales) for each in weights], place.sizes
    )
    for name, own, spread in zip(place.shapes, numbers, scales, strict=True):
        shape = own.shape
        own_scales = _by_group(name, spread.read(0, shape[0]), scheme)
        yield from _packed(_module(name), own.read(0, shape[0]), own_scales, scheme)


def _in_memory(values: np.ndarray) -> StoredTensor:
    return StoredTensor(
        name="",
        shape=values.shape,
        dtype="F32",
        num_bytes=values.nbytes,
        read=lambda start, stop: values[start:stop],
    )


def _by_group(name: str, spread: np.ndarray, scheme: Scheme) -> np.ndarray:
    """One scale for each group, of the scales of all numbers [out, in]."""
    num_outputs, num_inputs = spread.shape
    groups = spread.reshape(num_outputs, -1, scheme.group or num_inputs)
    if (groups != groups[:, :, :1]).any():
        raise ValueError(
            f"the inputs of {name} are not in the order of the model's own, so that its groups "
            "would be torn apart: use --scheme int8 or fp8"
        )
    found: np.ndarray = groups[:, :, 0]
    return found


def _packed(module: str, numbers: np.ndarray, scales: np.ndarray, scheme: Scheme) -> Iterator[Leaf]:
    """The tensors of one weight, in the scheme's format."""
    yield _leaf(f"{module}.weight_scale", scales.astype(_BFLOAT16))
    if scheme.is_float:
        yield _leaf(module + _WEIGHT, numbers.astype(FLOAT8))
        return
    yield _leaf(f"{module}.weight_packed", pack(numbers.astype(np.int64), scheme.bits))
    yield _leaf(f"{module}.weight_shape", np.array(numbers.shape, np.int64))


def pack(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Integers [out, in] in words of 32 bits [out, ceil(in * bits / 32)], the first in the lowest.

    Args:
      numbers: from -2^(bits - 1) on.
      bits: of each, 4 or 8.
    """
    per_word = 32 // bits
    padded = np.pad(numbers + (1 << (bits - 1)), ((0, 0), (0, -numbers.shape[1] % per_word)))
    parts = padded.astype(np.uint32).reshape(len(numbers), -1, per_word)
    shifts = np.arange(per_word, dtype=np.uint32) * np.uint32(bits)
    words: np.ndarray = np.bitwise_or.reduce(parts << shifts, axis=2).view(np.int32)
    return words


def _leaf(name: str, values: np.ndarray) -> Leaf:
    return Leaf(name, values.shape, values.dtype, lambda: values)


def _module(tensor: str) -> str:
    return tensor.removesuffix(_WEIGHT)
