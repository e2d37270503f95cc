"""The option groups of `flaxen train`: flags for settings, and options of the run.

Deliberately does not know what a setting means: flaxen.training.config. An option that is not given
leaves the setting to the file, or to its default there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from flaxen.cli import panels
from flaxen.cli.options import MODEL_HELP

_run_option = partial(typer.Option, rich_help_panel="Run", show_default=False)
_data_option = partial(typer.Option, rich_help_panel=panels.DATA, show_default=False)
_model_option = partial(typer.Option, rich_help_panel=panels.MODEL, show_default=False)


@dataclass(frozen=True, kw_only=True)
class SettingOptions:
    """Settings of a run that have a flag; None means not given."""

    model: Annotated[str | None, _model_option(help=MODEL_HELP)] = None
    data: Annotated[
        list[Path],
        _data_option(
            metavar="FILE",
            help="File to train on: .jsonl, .txt, .md or .parquet; may be given several times.",
        ),
    ] = field(default_factory=list)
    output_dir: Annotated[
        Path | None,
        _run_option(file_okay=False, help="Where checkpoints, metrics and the result are written."),
    ] = None
    method: Annotated[
        str | None,
        _run_option(
            help="What is trained: full (all parameters), lora (an adapter) or dpo (an adapter, by "
            "pairs of answers)."
        ),
    ] = None
    chat_template: Annotated[
        str | None,
        _model_option(
            metavar="FILE|JINJA|NAME",
            help="Chat template in place of the model's own: a file, Jinja in one line, or the "
            "name of one of the model's. Serve the result with the same.",
        ),
    ] = None
    from_scratch: Annotated[
        bool | None,
        _run_option(
            "--from-scratch/--no-from-scratch",
            help="Begin with random parameters in place of the model's own.",
        ),
    ] = None
    num_steps: Annotated[
        int | None,
        _run_option(min=1, help="Optimizer steps in all, whatever data.epochs says."),
    ] = None
    batch_size: Annotated[
        int | None, _data_option(min=1, help="Rows in a step; left out, the data decide.")
    ] = None
    sequence_length: Annotated[
        int | None, _data_option(min=1, help="Tokens in a row; left out, the data decide.")
    ] = None
    num_microbatches: Annotated[
        int | None, _run_option(min=1, help="Parts of a step's batch; more take less memory.")
    ] = None
    learning_rate: Annotated[
        float | None, _run_option(help="The highest learning rate of the schedule.")
    ] = None
    rank: Annotated[int | None, _run_option(min=1, help="Rank of the adapters.")] = None
    seed: Annotated[
        int | None, _run_option(help="Seed of the first parameters and of the data's order.")
    ] = None
    dtype: Annotated[
        str | None,
        _run_option(help="Number format to compute in: float32, bfloat16 or auto."),
    ] = None

    mesh: Annotated[
        str | None,
        _run_option(
            metavar="AXIS=N,...",
            help="Devices to train on, as fsdp=4 or data=2,tensor=2: data and fsdp divide the "
            "rows, context the tokens of each row, fsdp and tensor the parameters. On a "
            "CPU they are virtual, to try a mesh.",
        ),
    ] = None

    def named(self) -> dict[str, Any]:
        """The values by the settings' dotted names; None if not given."""
        return {
            "model": self.model,
            "data.files": [str(path) for path in self.data] or None,
            "output_dir": None if self.output_dir is None else str(self.output_dir),
            "method": self.method,
            "data.chat_template": self.chat_template,
            "from_scratch": self.from_scratch,
            "num_steps": self.num_steps,
            "data.batch_size": self.batch_size,
            "data.sequence_length": self.sequence_length,
            "num_microbatches": self.num_microbatches,
            "optimizer.learning_rate": self.learning_rate,
            "lora.rank": self.rank,
            "seed": self.seed,
            "data.seed": self.seed,
            "dtype": self.dtype,
            "mesh": self.mesh,
        }


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of a run that are not settings."""

    settings: Annotated[
        list[str],
        _run_option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting, as --set optimizer.name=lion; may be given several times.",
        ),
    ] = field(default_factory=list)
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from the last checkpoint, if there is one. What the run depends on must "
            "be the same; more steps or epochs may be asked for.",
        ),
    ] = False
    definition: Annotated[
        str | None,
        _model_option(
            metavar="FILE.py:NAME",
            help="For a directory that flaxen train wrote for a definition of your own: its code, "
            "in place of what the directory names.",
        ),
    ] = None
    peak_flops: Annotated[
        float | None,
        typer.Option(
            help="Floating point operations a second of which MFU is a share.",
            show_default="measured, by float32 products",
            rich_help_panel="Run",
        ),
    ] = None
