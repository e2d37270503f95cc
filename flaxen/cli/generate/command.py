"""`flaxen generate`: continues prompts in this process, all in one batch."""

from __future__ import annotations

import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from flaxen.cli.adapters import AdapterOptions, limits_for
from flaxen.cli.cpu import announce
from flaxen.cli.generate.outputs import as_json, as_text, check_outputs, describe_cuts
from flaxen.cli.groups import option
from flaxen.cli.machine import MachineOptions, ModelsDirOptions, find_places
from flaxen.cli.options import (
    BatchOptions,
    ContextOptions,
    MeshOptions,
    ModelArgument,
    ModelOptions,
    StepSizeOptions,
    engine_args,
)
from flaxen.cli.printing import print_text
from flaxen.cli.processes import ProcessOptions, follow
from flaxen.cli.progress import show_progress
from flaxen.cli.prompts import read_prompts
from flaxen.cli.sampling import GenerationConfigOptions, SamplingOptions, describe_defaults
from flaxen.protocol import SamplingParams

if TYPE_CHECKING:
    from flaxen.engine_args import EngineArgs
    from flaxen.llm import LLM
    from flaxen.outputs import RequestOutput

# Where neither the user nor the model says.
_OWN = {"max_tokens": 128, "temperature": 0.0}
_ADAPTER = "adapter"  # its name in the engine


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """The prompts, and how results are printed."""

    prompt: list[str] = option(
        [],
        "--prompt",
        "-p",
        help="A prompt to continue; may be given several times, and - is the standard input. "
        "Without any prompt the standard input is one too.",
    )
    file: list[Path] = option(
        [],
        "--file",
        "-f",
        metavar="FILE",
        help="A file whose whole text is a prompt; may be given several times.",
    )
    prompts_file: Path | None = option(
        None,
        metavar="FILE",
        help="A file with one prompt a line; - reads them from the standard input.",
    )
    as_json: bool = option(
        False, "--json", help="Print one JSON object a prompt, on a line of its own."
    )


def generate(
    model: ModelArgument,
    prompts: PromptOptions,
    adapter: AdapterOptions,
    sampling: SamplingOptions,
    model_options: ModelOptions,
    defaults: GenerationConfigOptions,
    context: ContextOptions,
    steps: StepSizeOptions,
    batch: BatchOptions,
    mesh: MeshOptions,
    processes: ProcessOptions,
    models: ModelsDirOptions,
    machine: MachineOptions,
) -> None:
    """Continue prompts, and print what the model adds to them."""
    given = sampling.given()
    texts = read_prompts(prompts.prompt, prompts.file, prompts.prompts_file, sys.stdin)
    groups = (model_options, defaults, context, steps, batch, mesh, models, machine)
    base, directory = adapter.beside(model, find_places(models, machine))
    args = engine_args(base, *groups, seed=secrets.randbits(62))  # the seed without --seed
    num_devices = mesh.num_devices
    is_follower = processes.start()
    cpu = machine.set_up(num_devices, processes.num_local_devices(num_devices))
    if is_follower:
        follow(args, limits_for(directory))
        return
    llm = _load(args, directory)
    beside = None if directory is None else _ADAPTER
    announce(cpu)
    default = llm.info.default_sampling
    if said := describe_defaults(default, given, defaults.generation_config):
        print(said, file=sys.stderr)
    params = SamplingParams(**{**_OWN, **default, **given})
    if len(texts) == 1 and not prompts.as_json:
        outputs = [_stream(llm, texts[0], params, beside)]
    else:
        outputs = llm.generate(
            texts, params, adapter=beside, use_tqdm=Console(stderr=True).is_terminal
        )
        for output in outputs:
            print_text((as_json(output) if prompts.as_json else as_text(output)) + "\n")
    check_outputs(outputs)
    if not prompts.as_json and (cuts := describe_cuts(outputs, llm.info.max_model_len)):
        print(cuts, file=sys.stderr)


def _load(args: EngineArgs, adapter: Path | None) -> LLM:
    """Loads the model, and the adapter beside it."""
    from flaxen.llm import LLM

    with show_progress(Console(stderr=True)) as on_progress:
        llm = LLM(**vars(args), lora=limits_for(adapter), on_progress=on_progress)
    if adapter is not None:
        llm.load_adapter(_ADAPTER, adapter)
    return llm


def _stream(llm: LLM, prompt: str, params: SamplingParams, adapter: str | None) -> RequestOutput:
    """Prints the text of one prompt as it comes."""
    from flaxen.engine.one_request import run_request
    from flaxen.outputs import RequestOutput
    from flaxen.prompts import make_request

    request = make_request(llm.tokenizer, prompt, params, "generate", adapter)
    output = RequestOutput.of(request, prompt, llm.tokenizer)
    for events in run_request(llm.engine, request):
        for event in events:
            output.add(event)
            print_text(event.text)
    print()
    return output
