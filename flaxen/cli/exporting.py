"""What `flaxen merge` and `flaxen export` share: a model with its adapters, and its writing.

Imports JAX only when it is needed, so that --help is fast.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.console import Console

from flaxen.cli.adapters import adapter_as_model, base_of, check_directory
from flaxen.cli.groups import option
from flaxen.cli.interrupt import unwind_first
from flaxen.cli.machine import ModelsDirOptions, Offline
from flaxen.cli.progress import show_download, show_progress
from flaxen.hub.places import Places
from flaxen.hub.sizes import format_size
from flaxen.weights.reference import parse_reference

if TYPE_CHECKING:
    from flaxen.weights.adapters.adapter import Adapter
    from flaxen.weights.checkpoint import Checkpoint

OnWritten = Callable[[int, int], None]  # (bytes written, bytes in total)
OutputDtype = Annotated[
    str,
    typer.Option(
        help="Number format of a directory's weights: float32, bfloat16, float16, or auto, which "
        "is that of the model's files, and bfloat16 for quantized ones.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """The adapters that are merged into the model before it is written."""

    adapter: list[Path] = option(
        [],
        metavar="DIR",
        help="Directory of a LoRA adapter to merge; may be given several times, for adapters "
        "that were trained one upon the other.",
    )
    offline: Offline = False


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to write, with the adapters to merge into it."""

    checkpoint: Checkpoint
    source: Path  # the model's directory or .gguf file
    adapters: tuple[Adapter, ...]

    @property
    def is_quantized(self) -> bool:
        """Whether some weights of the files are quantized."""
        return bool(self._types - {"F32", "F16", "BF16"})

    @property
    def types(self) -> str:
        """The number formats of the files' weights, for people."""
        return ", ".join(sorted(self._types))

    @property
    def _types(self) -> set[str]:
        return {tensor.dtype for tensor in self.checkpoint.sources.tensors.values()}


class Named(NamedTuple):
    """What the user named, before anything is opened."""

    model: str  # FILE.py:NAME, or the name that was resolved
    source: Path | None  # of a model in files or a definition's directory; None for FILE.py:NAME
    adapters: tuple[Path, ...]  # directories, in the order of merging

    @property
    def is_definition(self) -> bool:
        """Whether the model is a definition of the user's own."""
        from flaxen.definitions.files import is_definition

        return self.source is None or is_definition(self.source)


def find_named(model: str | None, options: SourceOptions, models: ModelsDirOptions) -> Named:
    """Finds the model and the adapters.

    Args:
      model: MODEL, which may be an adapter's directory; None is the base of the first adapter.
      options: the adapters, in the order of merging.
      models: where models are looked for.

    Raises:
      ValueError: a model or adapter is not found.
    """
    from flaxen.definitions.user_definition import refuse_a_file_without_name
    from flaxen.hub.resolve import resolve
    from flaxen.hub.run_directory import model_in

    places = Places(models_dir=models.models_dir, offline=options.offline)
    own = None if model is None else adapter_as_model(model)
    expanded = [Path(os.path.expanduser(each)) for each in options.adapter]
    directories = tuple(expanded if own is None else [own, *expanded])
    if len(set(map(os.path.realpath, directories))) < len(directories):
        raise ValueError("an adapter is named twice: merged twice, it would change the model twice")
    for directory in directories:
        check_directory(f"--adapter {directory}", directory)
    if model is None or own is not None:
        model = base_of(directories[0], places)
    if parse_reference(model) is not None:
        return Named(model, None, directories)
    refuse_a_file_without_name(model)
    with show_download(Console(stderr=True)) as on_download:
        return Named(model, model_in(resolve(model, places, on_download)), directories)


def open_subject(named: Named) -> Subject:
    """Opens a model in files, and reads the adapters.

    Raises:
      ValueError: the model is a definition or not supported, or an adapter does not fit.
    """
    from flaxen.families import UnknownFamilyError
    from flaxen.weights.adapters.peft import load_adapter
    from flaxen.weights.checkpoint import open_checkpoint

    if named.source is None or named.is_definition:
        raise ValueError(
            f"{named.model} is a definition, whose architecture no published format names: GGUF "
            "and Hugging Face directories hold models of known families only. flaxen merge and "
            "flaxen train write definitions as directories of their own"
        )
    try:
        checkpoint = open_checkpoint(named.source)
    except UnknownFamilyError as error:
        raise ValueError(
            f"{error}. PEFT's merge_and_unload merges an adapter into any model of transformers, "
            "and llama.cpp's convert_hf_to_gguf.py knows more of them"
        ) from None
    adapters = tuple(load_adapter(each, checkpoint.model) for each in named.adapters)
    return Subject(checkpoint=checkpoint, source=named.source, adapters=adapters)


def write_directory(subject: Subject, directory: Path, dtype: str) -> None:
    """Writes a directory of safetensors, and says how weights are rounded.

    Raises:
      ValueError: as in `export_directory`.
      OSError: the same.
    """
    from flaxen.weights.exporting import export_directory

    dtype = subject.checkpoint.dtype.name if dtype == "auto" else dtype

    def writing(on_written: OnWritten) -> None:
        export_directory(
            subject.checkpoint,
            subject.source,
            directory,
            adapters=subject.adapters,
            dtype=dtype,
            on_progress=on_written,
        )

    write(dtype, directory, writing)
    if subject.is_quantized:
        added = ", the adapter added in float32," if subject.adapters else ""
        note(
            f"weights in {subject.types} were dequantized exactly{added} and rounded once, to "
            f"{dtype}"
        )


def write(what: str, out: Path, writing: Callable[[OnWritten], None]) -> None:
    """Writes with a progress bar, and says what was written. Ctrl-C leaves nothing behind.

    Args:
      what: the number format, for people.
      out: the file or directory.
      writing: writes it; its argument is to be called with the bytes written and in total.

    Raises:
      ValueError: as `writing` does.
      OSError: the same.
    """

    def run() -> None:
        with show_progress(Console(stderr=True)) as on_progress:

            def on_written(done: int, total: int) -> None:
                if done < total:
                    check_room(out, total - done, shutil.disk_usage(out.absolute().parent).free)
                on_progress("writing", done, total)

            writing(on_written)

    unwind_first(run)
    files = [out] if out.is_file() else [path for path in out.iterdir() if path.is_file()]
    size = format_size(sum(path.stat().st_size for path in files))
    print(f"wrote {out} ({what}, {size}). Try it: flaxen chat {out}")


def check_room(out: Path, num_bytes: int, free: int) -> None:
    """Refuses to go on with a file that will not fit, rather than after all of it was tried.

    Args:
      out: what is written.
      num_bytes: the bytes that are left to write.
      free: the bytes that are free there.

    Raises:
      ValueError: there is too little room.
    """
    if free < num_bytes:
        raise ValueError(
            f"{out} needs {format_size(num_bytes)} more, and {format_size(free)} are free there: "
            "make room, or write it elsewhere"
        )


def note(text: str) -> None:
    """Tells the user something beside the result."""
    print(text, file=sys.stderr)
