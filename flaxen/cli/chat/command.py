"""`flaxen chat`: a conversation in the terminal."""

from __future__ import annotations

import contextlib
import importlib
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from flaxen.cli.adapters import AdapterOptions, limits_for
from flaxen.cli.chat.http import Answer, http_answer
from flaxen.cli.chat.loop import HELP, chat_loop
from flaxen.cli.cpu import announce
from flaxen.cli.definitions import find_definition
from flaxen.cli.interrupt import unwind_first
from flaxen.cli.machine import MachineOptions, ModelsDirOptions, find_places
from flaxen.cli.options import (
    MODEL_HELP,
    ChatTemplateOptions,
    ContextOptions,
    ModelOptions,
    engine_args,
)
from flaxen.cli.progress import show_progress
from flaxen.cli.sampling import GenerationConfigOptions, SamplingOptions, describe_defaults

if TYPE_CHECKING:
    from flaxen.engine_args import EngineArgs

# Where neither the user nor the model says.
_OWN = {"max_tokens": 512, "temperature": 0.7}
_ADAPTER = "adapter"  # its name in the engine


@dataclass(frozen=True, kw_only=True)
class TalkOptions:
    """The server to talk to, and the beginning of the conversation."""

    url: Annotated[
        str | None,
        typer.Option(
            help="A running OpenAI-compatible server to talk to, as http://127.0.0.1:8000; the "
            "options of the model and the engine are then the server's own.",
            show_default="in this process",
        ),
    ] = None
    api_key: Annotated[
        str | None, typer.Option(envvar="FLAXEN_API_KEY", help="Key to send to the server.")
    ] = None
    system: Annotated[
        str | None, typer.Option(help="System message: how the model should behave.")
    ] = None


def chat(
    talk: TalkOptions,
    adapter: AdapterOptions,
    sampling: SamplingOptions,
    model_options: ModelOptions,
    defaults: GenerationConfigOptions,
    template: ChatTemplateOptions,
    context: ContextOptions,
    models: ModelsDirOptions,
    machine: MachineOptions,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help=f"{MODEL_HELP} With --url: the server's name for the model.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Talk to a model: /reset starts over, /exit ends, Ctrl-C stops an answer, twice ends."""
    given = sampling.given()
    answer: Answer
    if talk.url is not None:
        if adapter.adapter is not None:
            raise ValueError(
                "--adapter is for a model of this process: a server's adapters have names, and the "
                "name is MODEL"
            )
        own = (model_options, defaults, template, context, machine.threads)
        nothing = (
            ModelOptions(),
            GenerationConfigOptions(),
            ChatTemplateOptions(),
            ContextOptions(),
        )
        if own != (*nothing, None):
            raise ValueError(
                "--dtype, --impl, --quantization, --checkpoint, --generation-config, "
                "--chat-template, --max-model-len, --kv-cache-size and --threads are the server's "
                "to choose: leave them out with --url"
            )
        model, answer = http_answer(talk.url, model, talk.api_key, given)
    elif model is None:
        raise ValueError("name a MODEL to run here, or give the --url of a running server")
    else:
        answers_seed = secrets.randbits(62)  # for answers without --seed
        groups = (model_options, defaults, template, context, models, machine)
        base, directory = adapter.beside(model, find_places(models, machine))
        args = engine_args(base, *groups, max_num_seqs=1, seed=answers_seed)
        answer = _answer_here(args, model_options, machine, directory, given)
    _converse(model, answer, talk.system)


def _answer_here(
    args: EngineArgs,
    model_options: ModelOptions,
    machine: MachineOptions,
    adapter: Path | None,
    given: dict[str, Any],
) -> Answer:
    """Loads the model, and the adapter beside it, in this process."""
    from flaxen.build import build
    from flaxen.cli.chat.local import local_answer
    from flaxen.protocol import SamplingParams
    from flaxen.weights.adapters.peft import load_adapter

    cpu = machine.set_up()
    with show_progress(Console(stderr=True)) as on_progress:
        definition = find_definition(args.model, model_options.checkpoint)
        limits = limits_for(adapter)
        parts = build(args, on_progress, lora=limits, definition=definition)
    if adapter is not None:
        parts.engine.adapters.load(_ADAPTER, load_adapter(adapter, parts.model))
    announce(cpu)
    default = parts.info.default_sampling
    if said := describe_defaults(default, given, args.generation_config):
        print(said, file=sys.stderr)
    params = SamplingParams(**{**_OWN, **default, **given})
    name = None if adapter is None else _ADAPTER
    return local_answer(parts.engine, parts.tokenizer, params, name)


def _converse(model: str, answer: Answer, system: str | None) -> None:
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(f"[bold]{escape(model)}[/]  [dim]{HELP}[/]")
        with contextlib.suppress(ImportError):  # not available in every Python
            importlib.import_module("readline")  # gives input() a history and editing keys
    prompt = "> " if sys.stdin.isatty() else ""

    def read() -> str:
        return unwind_first(lambda: input(prompt))

    chat_loop(answer, system, read, lambda text: print(text, end="", flush=True))
