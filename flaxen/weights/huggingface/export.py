"""Exports a model as a Hugging Face directory that transformers can load.

Deliberately does not know training, or where the model came from.
https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from flaxen.families import Family, hf_fields
from flaxen.hub.weight_files import INDEX, SINGLE
from flaxen.models.config import DecoderConfig
from flaxen.models.decoder import decoder
from flaxen.models.model import Params
from flaxen.tensors.tensor import StoredTensor
from flaxen.weights.atomic import new_directory
from flaxen.weights.file_tensors import ParamRows, file_tensors, rows_of_params
from flaxen.weights.form import DTYPES
from flaxen.weights.huggingface.tokenizer import write_tokenizer
from flaxen.weights.safetensors_writer import write_safetensors

_MAX_SHARD_BYTES = 4 << 30


def export_huggingface(
    directory: Path,
    family: Family,
    config: DecoderConfig,
    params: Params,
    *,
    dtype: str | None = None,
    tokenizer_of: Path | None = None,
    chat_template: str | None = None,
) -> None:
    """Writes parameters in memory as `write_directory` does.

    Args:
      directory: as in write_directory, like those that are not named here.
      params: plain or packed parameters; quantized ones are written dequantized.
      dtype: the dtype of the file's tensors; None is that of the norms.
    """
    write_directory(
        directory,
        family,
        config,
        rows_of_params(decoder(config).param_specs, params),
        dtype=str(params["final_norm"].dtype) if dtype is None else dtype,
        tokenizer_of=tokenizer_of,
        chat_template=chat_template,
    )


def write_directory(
    directory: Path,
    family: Family,
    config: DecoderConfig,
    rows: ParamRows,
    *,
    dtype: str,
    tokenizer_of: Path | None = None,
    chat_template: str | None = None,
    max_shard_bytes: int = _MAX_SHARD_BYTES,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes config.json, the weights as safetensors and the tokenizer, atomically.

    Args:
      directory: the new directory's name; it must not exist or be empty.
      family: the model's family, which names its tensors and fields.
      config: the model's configuration.
      rows: the parameters, which are read in pieces.
      dtype: the dtype of the file's tensors: float32, bfloat16 or float16.
      tokenizer_of: the directory or .gguf file with the tokenizer; None writes no tokenizer.
      chat_template: a Jinja template to write, which takes precedence over the tokenizer's own.
      max_shard_bytes: the most bytes of one file's tensors; a larger tensor gets a file of its own.
      on_progress: called with the bytes written and the total bytes.

    Raises:
      ValueError: the dtype or model is not supported, the directory is not empty, or `tokenizer_of`
          has no tokenizer.
      FileNotFoundError: the tokenizer's file is missing.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype} is not supported: use {', '.join(DTYPES)}")
    fields = {**hf_fields(family, config), "dtype": dtype, "torch_dtype": dtype}
    tensors = file_tensors(family.hf_rules, decoder(config).param_specs, config.sizes, rows)
    with new_directory(directory) as filling:
        if tokenizer_of is not None:
            fields |= write_tokenizer(filling, tokenizer_of)
        if chat_template is not None:
            (filling / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
        _write_json(filling / "config.json", fields)
        _write_shards(filling, tensors, jnp.dtype(dtype), max_shard_bytes, on_progress)


def _write_shards(
    directory: Path,
    tensors: Sequence[StoredTensor],
    dtype: np.dtype,
    max_shard_bytes: int,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    sizes = [math.prod(tensor.shape) * dtype.itemsize for tensor in tensors]
    shards: list[list[StoredTensor]] = [[]]
    held = 0
    for tensor, size in zip(tensors, sizes, strict=True):
        if shards[-1] and held + size > max_shard_bytes:
            shards.append([])
            held = 0
        shards[-1].append(tensor)
        held += size
    total, done = sum(sizes), 0

    def on_written(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        if on_progress is not None:
            on_progress(done, total)

    shard_of: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = SINGLE
        if len(shards) > 1:
            file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(directory / file, shard, dtype, on_written)
        shard_of |= {tensor.name: file for tensor in shard}
    if len(shards) > 1:
        _write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": shard_of})


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
