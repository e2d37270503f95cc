"""Exports parameters as a Hugging Face directory that transformers can load.

Deliberately does not know training, or where the model came from.
https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from flaxen.models.config import DecoderConfig
from flaxen.models.decoder import decoder
from flaxen.models.families import Family, hf_fields
from flaxen.models.model import Params
from flaxen.models.params import plain_param
from flaxen.weights.adapters.adapter import Adapter, merge_weight
from flaxen.weights.atomic import new_directory
from flaxen.weights.huggingface.tokenizer import write_tokenizer
from flaxen.weights.params import DTYPES
from flaxen.weights.rules import Place, Sizes, place_rules, scopes, write_tensors
from flaxen.weights.tensor import StoredTensor
from flaxen.weights.views import in_memory

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_MAX_SHARD_BYTES = 4 << 30


class _Tensor(NamedTuple):
    name: str
    num_bytes: int
    make: Callable[[], np.ndarray]


def export_huggingface(
    directory: Path,
    family: Family,
    config: DecoderConfig,
    params: Params,
    *,
    dtype: str | None = None,
    adapter: Adapter | None = None,
    tokenizer_of: Path | None = None,
    chat_template: str | None = None,
    max_shard_bytes: int = _MAX_SHARD_BYTES,
) -> None:
    """Writes config.json, the weights as safetensors and the tokenizer, atomically.

    Args:
      directory: the new directory's name; it must not exist or be empty.
      family: the model's family, which names its tensors and fields.
      config: the model's configuration.
      params: plain or packed parameters; quantized ones are written dequantized.
      dtype: the dtype of the file's tensors: float32, bfloat16 or float16; None is that of the
          norms.
      adapter: an adapter to merge into the weights before they are rounded.
      tokenizer_of: the directory or .gguf file with the tokenizer; None writes no tokenizer.
      chat_template: a Jinja template to write, which takes precedence over the tokenizer's own.
      max_shard_bytes: the most bytes of one file's tensors; a larger tensor gets a file of its own.

    Raises:
      ValueError: the dtype or model is not supported, the directory is not empty, or `tokenizer_of`
          has no tokenizer.
      FileNotFoundError: the tokenizer's file is missing.
    """
    dtype = str(params["final_norm"].dtype) if dtype is None else dtype
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype} is not supported: use {', '.join(DTYPES)}")
    fields = {**hf_fields(family, config), "dtype": dtype, "torch_dtype": dtype}
    tensors = list(_tensors(family, config, params, jnp.dtype(dtype), adapter))
    with new_directory(directory) as filling:
        if tokenizer_of is not None:
            fields |= write_tokenizer(filling, tokenizer_of)
        if chat_template is not None:
            (filling / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
        _write_json(filling / "config.json", fields)
        _write_tensors(filling, tensors, max_shard_bytes)


def _tensors(
    family: Family, config: DecoderConfig, params: Params, dtype: jnp.dtype, adapter: Adapter | None
) -> Iterator[_Tensor]:
    sizes, leaves_of = vars(config), dict(scopes(params))
    for place in place_rules(family.hf_rules, decoder(config).param_specs, sizes):
        deltas: Mapping[str, Any] = {}
        if adapter is not None and place.layer is not None:
            deltas = adapter.layers[place.layer]
        scale = 1.0 if adapter is None else adapter.config.scale
        written = partial(_written, place, leaves_of[place.layer], deltas, scale, sizes)
        for index, (name, shape) in enumerate(place.shapes.items()):
            make = partial(_made, written, index, dtype)
            yield _Tensor(name, math.prod(shape) * dtype.itemsize, make)


def _written(
    place: Place, leaves: Mapping[str, Any], deltas: Mapping[str, Any], scale: float, sizes: Sizes
) -> list[StoredTensor]:
    """The file's tensors of one rule, from the parameters in memory."""
    params = []
    for param, spec in zip(place.rule.params, place.specs, strict=True):
        values = np.asarray(plain_param(spec, leaves[param]))
        if param in deltas:
            values = merge_weight(values.astype(np.float32), deltas[param], scale)
        rows = values.swapaxes(-1, -2) if place.rule.transposed else values
        params.append(in_memory(param, rows))
    return write_tensors(place.rule.steps, params, sizes)


def _made(written: Callable[[], list[StoredTensor]], index: int, dtype: jnp.dtype) -> np.ndarray:
    tensor = written()[index]
    return np.ascontiguousarray(tensor.read(0, tensor.shape[0]).astype(dtype))


def _write_tensors(directory: Path, tensors: list[_Tensor], max_shard_bytes: int) -> None:
    """Writes the tensors shard by shard, because a copy of all may not fit into memory."""
    groups: list[list[_Tensor]] = [[]]
    for tensor in tensors:
        held = sum(each.num_bytes for each in groups[-1])
        if groups[-1] and held + tensor.num_bytes > max_shard_bytes:
            groups.append([])
        groups[-1].append(tensor)
    shard_of: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        file = _SINGLE
        if len(groups) > 1:
            file = f"model-{number:05}-of-{len(groups):05}.safetensors"
        made = {each.name: each.make() for each in group}
        save_file(made, directory / file, metadata={"format": "pt"})
        shard_of |= dict.fromkeys(made, file)
    if len(groups) > 1:
        total = sum(tensor.num_bytes for tensor in tensors)
        _write_json(directory / _INDEX, {"metadata": {"total_size": total}, "weight_map": shard_of})


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
