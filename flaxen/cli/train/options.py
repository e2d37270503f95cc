"""The option groups of `flaxen train`: flags for settings, and options of the run.

Deliberately does not know what a setting means: flaxen.training.config. An option that is not given
leaves the setting to the file, or to its default there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flaxen.cli import panels
from flaxen.cli.groups import option
from flaxen.cli.options import MODEL_HELP

_run_option = partial(option, rich_help_panel="Run", show_default=False)
_data_option = partial(option, rich_help_panel=panels.DATA, show_default=False)
_model_option = partial(option, rich_help_panel=panels.MODEL, show_default=False)


@dataclass(frozen=True, kw_only=True)
class SettingOptions:
    """Settings of a run that have a flag; None means not given."""

    model: str | None = _model_option(None, help=MODEL_HELP)
    data: list[Path] = _data_option(
        [],
        metavar="FILE",
        help="File to train on: .jsonl, .txt, .md or .parquet; may be given several times.",
    )
    output_dir: Path | None = _run_option(
        None, file_okay=False, help="Where checkpoints, metrics and the result are written."
    )
    method: str | None = _run_option(
        None,
        help="What is trained: full (all parameters), lora (an adapter) or dpo (an adapter, by "
        "pairs of answers).",
    )
    chat_template: str | None = _model_option(
        None,
        metavar="FILE|JINJA|NAME",
        help="Chat template in place of the model's own: a file, Jinja in one line, or the "
        "name of one of the model's. Serve the result with the same.",
    )
    from_scratch: bool | None = _run_option(
        None,
        "--from-scratch/--no-from-scratch",
        help="Begin with random parameters in place of the model's own.",
    )
    num_steps: int | None = _run_option(
        None, min=1, help="Optimizer steps in all, whatever data.epochs says."
    )
    batch_size: int | None = _data_option(
        None, min=1, help="Rows in a step; left out, the data decide."
    )
    sequence_length: int | None = _data_option(
        None, min=1, help="Tokens in a row; left out, the data decide."
    )
    num_microbatches: int | None = _run_option(
        None, min=1, help="Parts of a step's batch; more take less memory."
    )
    learning_rate: float | None = _run_option(
        None, help="The highest learning rate of the schedule."
    )
    rank: int | None = _run_option(None, min=1, help="Rank of the adapters.")
    seed: int | None = _run_option(
        None, help="Seed of the first parameters and of the data's order."
    )
    dtype: str | None = _run_option(
        None, help="Number format to compute in: float32, bfloat16 or auto."
    )

    mesh: str | None = _run_option(
        None,
        metavar="AXIS=N,...",
        help="Devices to train on, as fsdp=4 or data=2,tensor=2: data and fsdp divide the "
        "rows, context the tokens of each row, fsdp and tensor the parameters. On a "
        "CPU they are virtual, to try a mesh.",
    )

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

    settings: list[str] = _run_option(
        [],
        "--set",
        metavar="NAME=VALUE",
        help="Any other setting, as --set optimizer.name=lion; may be given several times.",
    )
    resume: bool = option(
        False,
        "--resume",
        help="Go on from the last checkpoint, if there is one. What the run depends on must "
        "be the same; more steps or epochs may be asked for.",
    )
    definition: str | None = _model_option(
        None,
        metavar="FILE.py:NAME",
        help="For a directory that flaxen train wrote for a definition of your own: its code, "
        "in place of what the directory names.",
    )
    peak_flops: float | None = option(
        None,
        help="Floating point operations a second of which MFU is a share.",
        show_default="measured, by float32 products",
        rich_help_panel="Run",
    )
