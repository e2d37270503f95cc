"""`flaxen export`: writes a model as a GGUF file, or as a directory of safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flaxen.cli.exporting import (
    OnWritten,
    OutputDtype,
    SourceOptions,
    Subject,
    find_named,
    note,
    open_subject,
    write,
    write_directory,
)
from flaxen.cli.groups import option
from flaxen.cli.machine import ModelsDirOptions
from flaxen.cli.model_names import complete_model


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            autocompletion=complete_model,
            help="A GGUF file, a directory with safetensors, a Hugging Face id or a short name; or "
            "an adapter's directory, whose base is found by the name in it.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="The new file, whose name ends in .gguf, or the new directory.",
            show_default=False,
        ),
    ],
    options: SourceOptions,
    models: ModelsDirOptions,
    outtype: str = option(
        "auto",
        help="Number format of a GGUF file: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, or "
        "auto, which keeps a GGUF model's blocks as they are, and otherwise is the dtype of "
        "the model's files.",
    ),
    dtype: OutputDtype = "auto",
) -> None:
    """Write a model as a GGUF file for llama.cpp and Ollama, or as a directory of safetensors."""
    is_gguf = output.suffix.lower() == ".gguf"
    if is_gguf and dtype != "auto":
        raise ValueError(f"--dtype {dtype} is for safetensors: for a GGUF file give --outtype")
    if not is_gguf and outtype != "auto":
        raise ValueError(
            f"--outtype {outtype} is for GGUF files, and {output} does not end in .gguf: for a "
            "directory of safetensors give --dtype"
        )
    subject = open_subject(find_named(model, options, models))
    if is_gguf:
        _write_gguf(subject, output, outtype.lower())
    else:
        write_directory(subject, output, dtype)


def _write_gguf(subject: Subject, output: Path, outtype: str) -> None:
    from flaxen.weights.exporting import export_gguf

    def writing(on_written: OnWritten) -> None:
        export_gguf(
            subject.checkpoint,
            subject.source,
            output,
            adapters=subject.adapters,
            out_type=outtype,
            on_progress=on_written,
        )

    write("GGUF" if outtype == "auto" else f"GGUF, {outtype}", output, writing)
    if subject.is_quantized and outtype != "auto":
        note(f"weights in {subject.types} were dequantized exactly, then written as {outtype}")
    elif subject.is_quantized and subject.adapters:
        note(
            f"the matrices that the adapter changes are written in {subject.checkpoint.dtype}, the "
            "others as they were: --outtype quantizes all of them"
        )
