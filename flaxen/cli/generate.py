"""`flaxen generate`: continues prompts in this process, all in one batch."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flaxen.cli import panels
from flaxen.cli.cpu import announce
from flaxen.cli.definitions import find_definition
from flaxen.cli.machine import MachineOptions
from flaxen.cli.options import (
    BatchOptions,
    ContextOptions,
    ModelArgument,
    ModelOptions,
    SamplingOptions,
    engine_args,
    sampling_seed,
)
from flaxen.cli.progress import show_progress

if TYPE_CHECKING:
    from flaxen.engine_args import EngineArgs
    from flaxen.llm import LLM
    from flaxen.outputs import RequestOutput
    from flaxen.protocol import SamplingParams


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """The prompts, and how results are printed."""

    prompt: Annotated[
        list[str],
        typer.Option("--prompt", "-p", help="A prompt to continue; may be given several times."),
    ] = field(default_factory=list)
    prompts_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A file with one prompt a line; - reads them from the standard input.",
        ),
    ] = None
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a prompt, on a line of its own.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class MoreSamplingOptions:
    """Sampling options in addition to those of a chat."""

    top_k: Annotated[
        int,
        typer.Option(
            min=0,
            help="Sample from this many likeliest tokens; 0 is all.",
            rich_help_panel=panels.SAMPLING,
        ),
    ] = 0
    sampling_seed: Annotated[int | None, sampling_seed("from --seed")] = None
    stop: Annotated[
        list[str],
        typer.Option(
            help="Text that ends an answer; may be given several times.",
            rich_help_panel=panels.SAMPLING,
        ),
    ] = field(default_factory=list)


def generate(
    model: ModelArgument,
    prompts: PromptOptions,
    sampling: SamplingOptions,
    more: MoreSamplingOptions,
    model_options: ModelOptions,
    context: ContextOptions,
    batch: BatchOptions,
    machine: MachineOptions,
) -> None:
    """Continue prompts, and print what the model adds to them."""
    texts = read_prompts(prompts.prompt, prompts.prompts_file)
    params = _sampling_params(sampling, more)
    args = engine_args(model, model_options, context, batch, machine)
    cpu = machine.set_up()
    llm = _load(args, model_options.checkpoint)
    announce(cpu)
    outputs = llm.generate(texts, params, use_tqdm=Console(stderr=True).is_terminal)
    for output in outputs:
        print(_as_json(output) if prompts.as_json else _as_text(output, len(outputs) > 1))
    check_outputs(outputs)


def _sampling_params(sampling: SamplingOptions, more: MoreSamplingOptions) -> SamplingParams:
    from flaxen.protocol import SamplingParams

    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=more.top_k,
        seed=more.sampling_seed,
        stop=tuple(more.stop),
    )


def _load(args: EngineArgs, checkpoint: Path | None) -> LLM:
    from flaxen.llm import LLM

    with show_progress(Console(stderr=True)) as on_progress:
        model = find_definition(args.model, checkpoint) or args.model
        return LLM(**vars(args) | {"model": model}, on_progress=on_progress)


def read_prompts(given: list[str], file: Path | None) -> list[str]:
    """Returns the prompts of the command line, or those of the file's lines that are not blank.

    Raises:
      ValueError: neither is given, both are, or a prompt is empty.
      OSError: the file can't be read.
    """
    if bool(given) == (file is not None):
        raise ValueError("give prompts by --prompt TEXT or by --prompts-file FILE, one of the two")
    if file is None:
        prompts = given
    else:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        prompts = [line for line in text.splitlines() if line.strip()]
    if not prompts or not all(prompts):
        raise ValueError(f"{'a prompt' if file is None else file} is empty: write at least a word")
    return prompts


def check_outputs(outputs: list[RequestOutput]) -> None:
    """Ends the command if prompts failed, once those that did not are printed.

    Raises:
      SystemExit: with how many failed, and why the first did.
    """
    errors = [output.outputs[0].error for output in outputs if output.outputs[0].error]
    if errors:
        raise SystemExit(
            f"error: {len(errors)} of {len(outputs)} prompts failed, first: {errors[0]}"
        )


def _as_json(output: RequestOutput) -> str:
    completion = output.outputs[0]
    return json.dumps(
        {
            "prompt": output.prompt,
            "text": completion.text,
            "num_prompt_tokens": len(output.prompt_token_ids),
            "num_output_tokens": len(completion.token_ids),
            "finish_reason": completion.finish_reason,
        }
    )


def _as_text(output: RequestOutput, is_one_of_many: bool) -> str:
    text = output.outputs[0].text
    return f"=== {output.prompt}\n{text}\n" if is_one_of_many else text
