"""`flaxen merge`: merges adapters into their base model, and writes an ordinary directory; of a
definition, one like those that `flaxen train` writes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from flaxen.cli.exporting import (
    Named,
    OnWritten,
    OutputDtype,
    SourceOptions,
    find_named,
    open_subject,
    write,
    write_directory,
)
from flaxen.cli.machine import ModelsDirOptions
from flaxen.cli.model_names import complete_model
from flaxen.cli.options import DefinitionCode


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
            autocompletion=complete_model,
            help="The base model: a GGUF file, a directory with safetensors, a Hugging Face id, a "
            "short name, or a definition of your own. Or the adapter's directory, in place of "
            "--adapter.",
            show_default="the one that the adapter names",
        ),
    ] = None,
    dtype: OutputDtype = "auto",
    definition: DefinitionCode = None,
) -> None:
    """Merge adapters into their base model: a directory that flaxen and transformers open."""
    if output_dir.suffix == ".gguf":
        raise ValueError(
            f"flaxen merge writes a directory: flaxen export MODEL {output_dir} --adapter DIR "
            "writes a GGUF file"
        )
    if model is None and not options.adapter:
        raise ValueError("name what to merge: flaxen merge MODEL --adapter DIR --output-dir OUT")
    named = find_named(model, options, models)
    if not named.adapters:
        raise ValueError(
            f"there is nothing to merge into {model}: name an adapter by --adapter DIR. flaxen "
            "export writes a model as it is"
        )
    if named.is_definition:
        _merge_definition(named, definition, output_dir, dtype)
        return
    if definition is not None:
        raise ValueError(
            "--definition names the code of a directory that flaxen train wrote for a definition, "
            f"and {named.model} is none: leave it out"
        )
    write_directory(open_subject(named), output_dir, dtype)


def _merge_definition(named: Named, code: str | None, directory: Path, dtype: str) -> None:
    import jax.numpy as jnp

    from flaxen.definitions.definition import Definition
    from flaxen.definitions.files import save_definition
    from flaxen.definitions.opening import open_model
    from flaxen.kernels.backend import Backend
    from flaxen.weights.adapters.adapter import merge_into_definition
    from flaxen.weights.adapters.peft import load_adapter
    from flaxen.weights.form import DTYPES

    if dtype != "auto" and dtype not in DTYPES:
        raise ValueError(f"dtype {dtype} is not supported: use {', '.join(DTYPES)}")
    name = str(named.source or named.model)
    found = open_model(name, backend=Backend.REFERENCE, definition=code).source
    assert isinstance(found, Definition)
    chosen = None if dtype == "auto" else jnp.dtype(dtype)
    params = found.params
    for path in named.adapters:
        adapter = load_adapter(path, found.model)
        params = merge_into_definition(found.model, params, adapter, chosen)
    merged = replace(found, params=params)

    def writing(on_written: OnWritten) -> None:
        save_definition(directory, merged, dtype=chosen)

    write(dtype if dtype != "auto" else found.dtype.name, directory, writing)
