"""Exports a model in files, with adapters merged into it: as a directory, or as a GGUF file.

Weights are read, merged, converted and written one after the other. Deliberately does not know
engines, nor how a name is resolved to a path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from flaxen.families.rules import tensor_of
from flaxen.tensors.tensor import StoredTensor
from flaxen.weights.adapters.adapter import Adapter, check_adapter
from flaxen.weights.atomic import new_file
from flaxen.weights.checkpoint import Checkpoint
from flaxen.weights.file_tensors import ParamRows, file_tensors, rows_of_sources, with_adapter
from flaxen.weights.gguf.description import general_metadata, tokenizer_metadata
from flaxen.weights.gguf.metadata import check_params, extra_tensors, model_metadata
from flaxen.weights.gguf.out_types import AUTO, OUT_TYPES, check_out_type, tensor_kind
from flaxen.weights.gguf.writer import OutTensor, write_gguf
from flaxen.weights.huggingface.export import write_directory
from flaxen.weights.rules import place_rules

OnProgress = Callable[[int, int], None]  # (bytes written, bytes in total)

_NAMES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}  # dtype -> its name in GGUF


def export_directory(
    checkpoint: Checkpoint,
    source: Path,
    directory: Path,
    *,
    adapters: Sequence[Adapter] = (),
    dtype: str = AUTO,
    on_progress: OnProgress | None = None,
) -> None:
    """Writes a Hugging Face directory, atomically. Quantized weights are dequantized exactly, and
    each weight is rounded once, to the dtype.

    Args:
      checkpoint: the model.
      source: its directory or .gguf file, from which the tokenizer comes.
      directory: the new directory's name; it must not exist or be empty.
      adapters: merged in this order, in float32.
      dtype: float32, bfloat16, float16, or auto, which is that of the model's files.
      on_progress: called while the weights are written.

    Raises:
      ValueError: as in write_directory; or an adapter is another model's.
      FileNotFoundError: the source has no tokenizer.
    """
    write_directory(
        directory,
        checkpoint.family,
        checkpoint.config,
        _rows(checkpoint, adapters),
        dtype=checkpoint.dtype.name if dtype == AUTO else dtype,
        tokenizer_of=source,
        on_progress=on_progress,
    )


def export_gguf(
    checkpoint: Checkpoint,
    source: Path,
    path: Path,
    *,
    adapters: Sequence[Adapter] = (),
    out_type: str = AUTO,
    on_progress: OnProgress | None = None,
) -> None:
    """Writes a GGUF file, atomically.

    Args:
      checkpoint: the model.
      source: its directory or .gguf file, from which the tokenizer comes.
      path: the new file's name.
      adapters: merged in this order, in float32.
      out_type: a name of OUT_TYPES; or auto, which keeps the blocks of a .gguf file, and otherwise
          is the dtype of the model's files. Matrices that an adapter changes have that dtype too.
      on_progress: called while the weights are written.

    Raises:
      ValueError: the type is unknown, the name in use, GGUF can't express the model or its
          tokenizer, or an adapter is another model's.
      FileNotFoundError: the source has no tokenizer.
    """
    check_out_type(out_type)
    if checkpoint.family.gguf_architecture is None:
        raise ValueError(
            f"models of {checkpoint.family.architecture} can't be written as GGUF files: export "
            "the model as a directory of safetensors"
        )
    rows, specs, config = (
        _rows(checkpoint, adapters),
        checkpoint.model.param_specs,
        checkpoint.config,
    )
    rules = checkpoint.family.gguf_rules
    check_params(checkpoint.family, config)
    stored = [*extra_tensors(config), *file_tensors(rules, specs, config.sizes, rows)]
    tables = {
        tensor_of(rules, name)
        for name, spec in specs.items()
        if name != "layers" and spec.role == "table"
    }
    wide = {
        name
        for place in place_rules(rules, specs, config.sizes)
        if all(spec.role == "vector" or spec.is_wide for spec in place.specs)
        for name in place.shapes
    }
    tensors = [
        _out_tensor(
            each, out_type, checkpoint, is_table=each.name in tables, is_wide=each.name in wide
        )
        for each in stored
    ]
    with new_file(path) as writing:
        metadata = model_metadata(checkpoint.family, config, stored)
        name = path.stem if adapters else checkpoint.name
        metadata |= general_metadata(name, source, tensors, is_changed=bool(adapters))
        metadata |= tokenizer_metadata(source, config.vocab_size)
        write_gguf(writing, metadata, tensors, on_progress)


def _rows(checkpoint: Checkpoint, adapters: Sequence[Adapter]) -> ParamRows:
    rows = rows_of_sources(checkpoint.model.param_specs, checkpoint.sources.params)
    for adapter in adapters:
        check_adapter(adapter, checkpoint.model)
        rows = with_adapter(rows, adapter)
    return rows


def _out_tensor(
    stored: StoredTensor, out_type: str, checkpoint: Checkpoint, *, is_table: bool, is_wide: bool
) -> OutTensor:
    if out_type == AUTO and stored.blocks is not None:
        return OutTensor(stored=stored, kind=stored.blocks.kind)
    kind = OUT_TYPES[_NAMES[checkpoint.dtype.name] if out_type == AUTO else out_type]
    if is_wide:  # also where it is a matrix: routers, and the taps of convolutions
        kind = OUT_TYPES["f32"]
    return OutTensor(stored=stored, kind=tensor_kind(kind, stored.shape, is_table=is_table))
