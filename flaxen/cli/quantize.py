"""`flaxen quantize`: writes a checkpoint with quantized weights, calibrated on texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flaxen.cli.exporting import OnWritten, SourceOptions, find_named, note, open_subject, write
from flaxen.cli.groups import option
from flaxen.cli.machine import MachineOptions, ModelsDirOptions
from flaxen.cli.model_names import complete_model
from flaxen.cli.progress import show_progress


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """How weights are quantized, and the texts that show what they are multiplied with.

    Raises:
      ValueError: the method is not known, or its texts are missing.
    """

    scheme: str = option(
        "int8",
        help="int8 and fp8: eight bits with a scale for each output; int4: four bits with a "
        "scale for each group of inputs.",
    )
    method: str = option(
        "gptq",
        help="gptq rounds each weight so that its products with the calibration texts change "
        "little; rtn rounds to nearest, without texts.",
    )
    calibration: list[Path] = option(
        [],
        metavar="FILE",
        help="File of texts like those that the model will see: .jsonl, .txt, .md or "
        ".parquet; may be given several times.",
    )
    samples: int = option(
        128, min=1, help="Rows of calibration tokens; fewer if the files have less."
    )
    sequence_length: int | None = option(
        None, min=2, help="Tokens of a row.", show_default="512, or the model's own length"
    )
    group_size: int | None = option(
        None,
        min=1,
        help="Inputs that share a scale, with int4: 128, 64 or 32.",
        show_default="the largest that divides all weights",
    )

    def __post_init__(self) -> None:
        if self.method == "awq":
            raise ValueError("the method awq is not supported: use gptq, which needs as many texts")
        if self.method not in ("gptq", "rtn"):
            raise ValueError(f"the method {self.method!r} is not known: use gptq or rtn")
        if self.method == "gptq" and not self.calibration:
            raise ValueError(
                "gptq needs texts: name a file of them with --calibration FILE, or round to "
                "nearest with --method rtn"
            )
        if self.method == "rtn" and self.calibration:
            raise ValueError(
                "--method rtn reads no texts: leave --calibration out, or use --method gptq"
            )


def quantize(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            autocompletion=complete_model,
            help="A directory with safetensors, a GGUF file, a Hugging Face id or a short name.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="The new directory.", show_default=False)
    ],
    options: QuantizeOptions,
    models: ModelsDirOptions,
    machine: MachineOptions,
) -> None:
    """Write a model with weights of 8 or 4 bits, which vLLM and transformers load too."""
    named = find_named(model, SourceOptions(offline=machine.offline), models)
    if named.adapters:
        raise ValueError(
            f"{model} is an adapter: merge it first, with flaxen merge --adapter {model} "
            "--output-dir DIR, and quantize DIR"
        )
    subject = open_subject(named)
    checkpoint = subject.checkpoint
    if checkpoint.quantized_by is not None:
        raise ValueError(
            f"{checkpoint.name} is quantized already, by {checkpoint.quantized_by}: quantize the "
            "checkpoint that it was made from"
        )
    machine.set_up()

    from flaxen.quantizing.run import Calibration, quantize_checkpoint
    from flaxen.quantizing.writing import write_quantized

    calibration = None
    if options.method == "gptq":
        files = tuple(options.calibration)
        calibration = Calibration(files, options.samples, options.sequence_length)
    with show_progress(Console(stderr=True)) as on_progress:
        layers, scheme = quantize_checkpoint(
            checkpoint, options.scheme, options.group_size, calibration,
            lambda done, total: on_progress("layers", done, total),
        )  # fmt: skip

    def writing(on_written: OnWritten) -> None:
        write_quantized(output, checkpoint, subject.source, layers, scheme)

    groups = "" if scheme.group is None else f", groups of {scheme.group}"
    write(f"{options.scheme}{groups} by {options.method}", output, writing)
    if subject.is_quantized:
        note(f"weights in {subject.types} were dequantized first: they are rounded twice")
