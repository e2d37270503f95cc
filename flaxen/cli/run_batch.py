"""`flaxen run-batch`: answers a file of requests without a server, as vLLM's command does."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flaxen.cli.machine import MachineOptions, ModelsDirOptions
from flaxen.cli.options import (
    BatchOptions,
    ChatTemplateOptions,
    ContextOptions,
    ModelArgument,
    ModelOptions,
    RunnerOptions,
    StepSizeOptions,
    engine_args,
)
from flaxen.cli.progress import show_progress
from flaxen.cli.sampling import GenerationConfigOptions

if TYPE_CHECKING:
    from flaxen.build import Parts
    from flaxen.engine_args import EngineArgs


@dataclass(frozen=True, kw_only=True)
class BatchFileOptions:
    """Where the requests are, and where their results go."""

    input_file: Annotated[
        Path,
        typer.Option(
            "--input-file",
            "-i",
            metavar="FILE",
            help="JSON Lines: each has custom_id, method (POST), url (such as "
            "/v1/chat/completions) and body.",
        ),
    ]
    output_file: Annotated[
        Path,
        typer.Option(
            "--output-file",
            "-o",
            metavar="FILE",
            help="Where the results go, a line for each request, in the same order.",
        ),
    ]


def run_batch(
    model: ModelArgument,
    files: BatchFileOptions,
    model_options: ModelOptions,
    runner: RunnerOptions,
    context: ContextOptions,
    steps: StepSizeOptions,
    batch: BatchOptions,
    models: ModelsDirOptions,
    machine: MachineOptions,
    template: ChatTemplateOptions,
    defaults: GenerationConfigOptions,
) -> None:
    """Answer a file of requests as a server would, and write the results into another."""
    from flaxen.serving.batch_file import answer_all, read_requests, write_results

    requests = read_requests(files.input_file)  # a bad line must not wait for the weights
    groups = (model_options, runner, context, steps, batch, models, machine, template, defaults)
    args = engine_args(model, *groups)
    machine.set_up(1, None)
    results = asyncio.run(answer_all(_build(args), requests))
    num_failed = write_results(files.output_file, results)
    print(f"{len(results)} requests were answered, {num_failed} with an error", file=sys.stderr)


def _build(args: EngineArgs) -> Parts:
    from flaxen.build import build

    with show_progress(Console(stderr=True)) as on_progress:
        return build(args, on_progress)
