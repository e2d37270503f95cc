"""`flaxen eval`: evaluates a model on files, by perplexity or by multiple choice."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console

from flaxen.cli import panels
from flaxen.cli.adapters import AdapterOptions
from flaxen.cli.cpu import announce
from flaxen.cli.groups import option
from flaxen.cli.machine import MachineOptions, ModelsDirOptions, find_places
from flaxen.cli.options import (
    ChatTemplateOptions,
    MeshOptions,
    ModelArgument,
    ModelOptions,
    engine_args,
)
from flaxen.cli.progress import show_progress

if TYPE_CHECKING:
    from flaxen.data.config import OnBadRecord

TASKS = ("auto", "perplexity", "choice")
_LENGTH = 1024  # tokens of a row, if the model's length allows
_data_option = partial(option, rich_help_panel=panels.DATA)


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """The data of an evaluation, and its options.

    Raises:
      ValueError: an option has an unknown value.
    """

    data: Annotated[
        list[Path],
        typer.Option(
            "--data",
            "-d",
            metavar="FILE",
            help="File to score the model on: .jsonl, .txt, .md or .parquet; may be given several "
            "times.",
            rich_help_panel=panels.DATA,
        ),
    ]
    task: str = _data_option(
        "auto",
        help="perplexity (of texts, completions or chats), choice (of questions with choices "
        "and an answer), or auto, which goes by the first record.",
    )
    sequence_length: int | None = _data_option(
        None,
        min=2,
        help="Tokens of a row: long texts are split, longer chats and prompts are cut.",
        show_default=f"{_LENGTH}, or the model's own where that is less",
    )
    stride: int | None = _data_option(
        None,
        min=1,
        help="New tokens in each window of a long text; those before them are context. Less "
        "is slower, and gives each token more context.",
        show_default="--sequence-length: windows side by side",
    )
    batch_size: int = _data_option(4, min=1, help="Rows computed at once.")
    cache_dtype: str | None = option(
        None,
        "--kv-cache-dtype",
        help="Compute perplexity through the pages of a KV cache in this number format: auto, "
        "bfloat16, float32, int8 or fp8.",
        show_default="without a cache, as in training",
    )
    on_bad_record: str = _data_option(
        "fail", help="What to do with records that can't be used: fail, or skip and count them."
    )
    as_json: bool = option(False, "--json", help="Print one JSON object.")

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"the task {self.task!r} is not known: use one of {', '.join(TASKS)}")
        if self.on_bad_record not in ("fail", "skip"):
            raise ValueError(f"--on-bad-record must be fail or skip, got {self.on_bad_record!r}")


def evaluate(
    model: ModelArgument,
    options: EvalOptions,
    adapter: AdapterOptions,
    model_options: ModelOptions,
    template: ChatTemplateOptions,
    models: ModelsDirOptions,
    mesh: MeshOptions,
    machine: MachineOptions,
) -> None:
    """Score a model on files: perplexity, or multiple choice."""
    task = find_task(options.data[0]) if options.task == "auto" else options.task
    if task == "choice" and options.stride is not None:
        raise ValueError("--stride is for the perplexity of long texts: leave it out for questions")
    base, directory = adapter.beside(model, find_places(models, machine))
    args = engine_args(base, model_options, template, models, mesh, machine)
    cpu = machine.set_up(mesh.num_devices)

    from flaxen import evaluation

    with show_progress(Console(stderr=True)) as on_progress:
        if options.cache_dtype is None:
            subject = evaluation.load(args, directory, on_progress)
        else:
            evaluation.check_pages(task, directory)
            args = replace(args, kv_cache_dtype=options.cache_dtype)
            subject = evaluation.load_in_pages(args, options.sequence_length, on_progress)
    announce(cpu)
    longest = subject.model.max_position
    length = evaluation.row_length(options.sequence_length, longest, default=_LENGTH)
    records = evaluation.Records(
        files=tuple(options.data),
        batch_size=options.batch_size,
        sequence_length=length,
        on_bad_record=cast("OnBadRecord", options.on_bad_record),
    )
    if task == "perplexity":
        found = evaluation.score_texts(subject, records, stride=options.stride)
    else:
        found = evaluation.score_questions(subject, records)
    result = {
        "task": task,
        "model": base,
        "adapter": str(directory) if directory else None,
        "kv_cache_dtype": options.cache_dtype,
        **found,
    }
    print(json.dumps(result) if options.as_json else describe(result))


def find_task(file: Path) -> str:
    """The task of a file: choice where its first JSON line has choices, else perplexity.

    Raises:
      OSError: the file can't be read.
    """
    if file.suffix.lower() not in (".jsonl", ".ndjson"):
        return "perplexity"
    with file.open("rb") as opened:
        line = next((line for line in opened if line.strip()), b"")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return "perplexity"  # the evaluation will name the bad line
    return "choice" if isinstance(value, dict) and "choices" in value else "perplexity"


def describe(result: dict[str, Any]) -> str:
    """A result as text."""
    skipped = f"; {result['num_bad']} bad records skipped" if result["num_bad"] else ""
    cut = f"; {result['num_truncated']} records cut" if result["num_truncated"] else ""
    if result["task"] == "perplexity":
        return (
            f"perplexity {result['perplexity']:.4f}, loss {result['loss']:.5f} a token, over "
            f"{result['num_tokens']} tokens of {result['num_records']} records (windows of "
            f"{result['sequence_length']} tokens, {result['stride']} new in each{skipped}{cut})"
        )
    return (
        f"acc {result['acc']:.4f} ± {result['acc_stderr']:.4f}, acc_norm "
        f"{result['acc_norm']:.4f} ± {result['acc_norm_stderr']:.4f}, over "
        f"{result['num_questions']} questions (acc_norm divides the log-probability of a choice by "
        f"its length in bytes{skipped}{cut})"
    )
