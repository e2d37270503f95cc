"""`flaxen merge`: merges adapters into their base model, and writes an ordinary directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flaxen.cli.exporting import OutputDtype, SourceOptions, open_subject, write_directory
from flaxen.cli.machine import ModelsDirOptions


def merge(
    options: SourceOptions,
    models: ModelsDirOptions,
    output_dir: Annotated[
        Path, typer.Option("--output-dir", "-o", metavar="DIR", help="The new directory.")
    ],
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="The base model: a GGUF file, a directory with safetensors, a Hugging Face id or "
            "a short name. Or the adapter's directory, in place of --adapter.",
            show_default="the one that the adapter names",
        ),
    ] = None,
    dtype: OutputDtype = "auto",
) -> None:
    """Merge adapters into their base model: a directory that flaxen and transformers open."""
    if output_dir.suffix == ".gguf":
        raise ValueError(
            f"flaxen merge writes a directory: flaxen export MODEL {output_dir} --adapter DIR "
            "writes a GGUF file"
        )
    if model is None and not options.adapter:
        raise ValueError("name what to merge: flaxen merge MODEL --adapter DIR --output-dir OUT")
    subject = open_subject(model, options, models)
    if not subject.adapters:
        raise ValueError(
            f"there is nothing to merge into {model}: name an adapter by --adapter DIR. flaxen "
            "export writes a model as it is"
        )
    write_directory(subject, output_dir, dtype)
