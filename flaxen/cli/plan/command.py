"""`flaxen plan`: what fits on hardware that is not here, and how fast it can be."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flaxen.cli.groups import option
from flaxen.cli.machine import ModelsDirOptions
from flaxen.cli.options import (
    ContextOptions,
    MeshOptions,
    ModelArgument,
    ModelOptions,
    StepSizeOptions,
    engine_args,
)

if TYPE_CHECKING:
    from flaxen.planning.plan import Plan


_training_option = partial(option, rich_help_panel="Training")


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """The hardware, and how the plan is made and printed."""

    target: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The hardware: a TPU slice, as v5e-8, v6e-8, v5p-8; or GPUs of one machine, as "
            "h100, h100-8, h200, a100, mi300x.",
            show_default=False,
        ),
    ]
    compiles: bool = option(
        True,
        "--compile/--no-compile",
        help="Compile the steps for a TPU, which takes a minute or more and needs no TPU; "
        "without it, and for GPUs, everything is computed from shapes.",
    )
    as_json: bool = option(False, "--json", help="Print one JSON object.")


@dataclass(frozen=True, kw_only=True)
class PlannedTrainingOptions:
    """A training step to plan."""

    train: str | None = _training_option(
        None,
        metavar="METHOD",
        help="Plan a training step too: full trains all parameters, lora adapters. With a mesh "
        "over fsdp or context nothing else is planned.",
        show_default="no training",
    )
    batch_size: int = _training_option(
        8, min=1, help="Rows that are computed at once, on the whole mesh."
    )
    sequence_length: int = _training_option(2048, min=1, help="Tokens of a row.")
    remat: str = _training_option(
        "none",
        help="What the backward pass computes again: none, or layer, which takes less memory.",
    )


def plan(
    model: ModelArgument,
    options: PlanOptions,
    mesh: MeshOptions,
    model_options: ModelOptions,
    context: ContextOptions,
    steps: StepSizeOptions,
    training: PlannedTrainingOptions,
    models: ModelsDirOptions,
) -> None:
    """Plan a model on hardware that is not here: what fits, and how fast it can be.

    MODEL may also be a config.json, or a directory with nothing else: weights are not needed. The
    times are the least that the hardware's published figures allow; no engine reaches them. Exits
    with 1 if it does not fit.
    """
    from flaxen.kernels.device import use_device
    from flaxen.planning.plan import plan as make_plan
    from flaxen.planning.training import TrainingArgs
    from flaxen.sharding.topologies import COMPILE_ENVIRONMENT

    shape = mesh.shape
    if options.compiles:
        os.environ.update(COMPILE_ENVIRONMENT)  # before libtpu is loaded
    use_device("cpu")  # nothing is computed, on no accelerator that may be here
    train = None
    if training.train is not None:
        train = TrainingArgs(
            method=training.train,
            batch_size=training.batch_size,
            sequence_length=training.sequence_length,
            remat=training.remat,
        )
    elif training != PlannedTrainingOptions():
        raise ValueError(
            "--batch-size, --sequence-length and --remat are those of a training step: give "
            "--train full or --train lora too, or leave them out"
        )
    args = engine_args(model, model_options, context, steps, models)
    with Console(stderr=True).status("planning"):
        made = make_plan(args, options.target, shape, train=train, compiles=options.compiles)
    _show(made, options.as_json)
    if not made.fits:
        raise SystemExit(1)


def _show(made: Plan, as_json: bool) -> None:
    from flaxen.planning.as_json import json_of
    from flaxen.planning.report import lines_under, table

    if as_json:
        print(json.dumps(json_of(made)))
        return
    console = Console(highlight=False)
    console.print(table(made))
    for line in lines_under(made):
        console.print(line, soft_wrap=True, markup=False)
