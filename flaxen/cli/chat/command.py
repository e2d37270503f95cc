"""`flaxen chat`: a conversation in the terminal, or one answer for a script."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from flaxen.chat.answers import Answer, AnswerError
from flaxen.chat.commands import COMMANDS
from flaxen.chat.conversation import Conversation
from flaxen.chat.http import http_answer, server_models
from flaxen.chat.loop import Screen, answer_once, chat_loop
from flaxen.chat.reading import Typed, read_message
from flaxen.cli.adapters import AdapterOptions, limits_for
from flaxen.cli.chat.terminal import default_history, line_reader, recall, say
from flaxen.cli.cpu import announce
from flaxen.cli.groups import option
from flaxen.cli.interrupt import Interrupted, end_now
from flaxen.cli.machine import MachineOptions, ModelsDirOptions, find_places
from flaxen.cli.model_names import complete_model
from flaxen.cli.options import (
    MODEL_HELP,
    ChatTemplateOptions,
    ContextOptions,
    MeshOptions,
    ModelOptions,
    engine_args,
)
from flaxen.cli.printing import print_text
from flaxen.cli.progress import show_progress
from flaxen.cli.prompts import STDIN, read_text
from flaxen.cli.sampling import GenerationConfigOptions, SamplingOptions, describe_defaults

if TYPE_CHECKING:
    from flaxen.engine_args import EngineArgs

# Where neither the user nor the model says.
_OWN = {"max_tokens": 512, "temperature": 0.7}
_ADAPTER = "adapter"  # its name in the engine


@dataclass(frozen=True, kw_only=True)
class TalkOptions:
    """The server to talk to, and how the conversation is held."""

    url: str | None = option(
        None,
        help="A running OpenAI-compatible server to talk to, as http://127.0.0.1:8000; the "
        "options of the model and the engine are then the server's own.",
        show_default="in this process",
    )
    api_key: str | None = option(None, envvar="FLAXEN_API_KEY", help="Key to send to the server.")
    system: str | None = option(None, help="System message: how the model should behave.")
    prompt: str | None = option(
        None,
        "--prompt",
        "-p",
        metavar="TEXT",
        help="Print the answer to this message and end; - is the whole standard input.",
    )
    verbose: bool = option(
        False, "--verbose", "-v", help="After each answer, show its tokens and times."
    )
    history: bool = option(
        True,
        "--history/--no-history",
        help="Keep what is typed for the arrow keys of later chats, in "
        "~/.local/state/flaxen/chat_history.",
    )


def chat(
    talk: TalkOptions,
    adapter: AdapterOptions,
    sampling: SamplingOptions,
    model_options: ModelOptions,
    defaults: GenerationConfigOptions,
    template: ChatTemplateOptions,
    context: ContextOptions,
    mesh: MeshOptions,
    models: ModelsDirOptions,
    machine: MachineOptions,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            autocompletion=complete_model,
            help=f"{MODEL_HELP} With --url: the server's name for the model, or for an adapter.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Talk to a model: /help lists commands, Ctrl-C stops an answer, a second one ends.

    Without a terminal each line of the standard input is a message.
    """
    conversation = _begin(talk, sampling)
    if talk.url is not None:
        own = (adapter, model_options, defaults, template, context, mesh)
        _check_no_engine_options(own, machine)
        model, answer = _answer_there(talk, model)
    elif model is None:
        raise ValueError(
            "name a MODEL to run here, such as smollm2-135m, or give the --url of a running server"
        )
    else:
        groups = (model_options, defaults, template, context, mesh, models, machine)
        base, directory = adapter.beside(model, find_places(models, machine))
        # The seed is for answers without --seed.
        args = engine_args(base, *groups, max_num_seqs=1, seed=secrets.randbits(62))
        answer = _answer_here(args, machine, mesh.num_devices, directory, sampling)
    screen = Screen(write=print_text, say=say, shows_counts=talk.verbose)
    if talk.prompt is not None:
        _answer_once(answer, conversation, screen)
    else:
        _converse(model, answer, conversation, screen, keeps_history=talk.history)


def _check_no_engine_options(given: tuple[object, ...], machine: MachineOptions) -> None:
    """Refuses options of an engine beside --url.

    Args:
      given: the groups of options of an engine, each of which must be as if it was left out.
      machine: its device and threads are an engine's too.

    Raises:
      ValueError: one of them was given.
    """
    is_given = any(each != type(each)() for each in given)
    if is_given or machine.threads is not None or machine.device != "auto":
        raise ValueError(
            "--adapter, --dtype, --impl, --quantization, --definition, --generation-config, "
            "--chat-template, --max-model-len, --kv-cache-size, --kv-cache-dtype, "
            "--gpu-memory-utilization, --mesh, --device and --threads are the server's to choose: "
            "leave them out with --url. MODEL names one of its models or adapters"
        )


def _begin(talk: TalkOptions, sampling: SamplingOptions) -> Conversation:
    """The conversation before the first answer."""
    conversation = Conversation(system=talk.system, sampling=sampling.given())
    if talk.prompt is not None:
        text = read_text(Path(STDIN), sys.stdin) if talk.prompt == STDIN else talk.prompt
        if not text.strip():
            raise ValueError("the prompt is empty: write at least a word")
        conversation.add("user", text)
    return conversation


def _answer_here(
    args: EngineArgs,
    machine: MachineOptions,
    num_devices: int,
    adapter: Path | None,
    sampling: SamplingOptions,
) -> Answer:
    """Loads the model, and the adapter beside it, in this process."""
    from flaxen.build import build
    from flaxen.chat.local import local_answer
    from flaxen.weights.adapters.peft import load_adapter

    cpu = machine.set_up(num_devices)
    with show_progress(Console(stderr=True)) as on_progress:
        parts = build(args, on_progress, lora=limits_for(adapter))
    if adapter is not None:
        parts.engine.adapters.load(_ADAPTER, load_adapter(adapter, parts.model))
    announce(cpu)
    default = parts.info.default_sampling
    if said := describe_defaults(default, sampling.given(), args.generation_config):
        say(said)
    name = None if adapter is None else _ADAPTER
    return local_answer(parts.engine, parts.tokenizer, {**_OWN, **default}, name)


def _answer_there(talk: TalkOptions, model: str | None) -> tuple[str, Answer]:
    """Finds the server's model; without a name that is its first."""
    assert talk.url is not None
    if model is None:
        model, *others = server_models(talk.url, talk.api_key)
        if others:
            say(f"The server also has {', '.join(others)}: flaxen chat --url {talk.url} NAME")
    return model, http_answer(talk.url, model, talk.api_key, counts_tokens=talk.verbose)


def _answer_once(answer: Answer, conversation: Conversation, screen: Screen) -> None:
    try:
        answer_once(answer, conversation, screen)
    except AnswerError as error:
        raise SystemExit(f"error: {error}") from error


def _converse(
    model: str, answer: Answer, conversation: Conversation, screen: Screen, *, keeps_history: bool
) -> None:
    if sys.stdin.isatty():
        console = Console(stderr=True, highlight=False)
        console.print(f"[bold]{escape(model)}[/]  [dim]/help lists commands, Ctrl-D ends[/]")
    read_line = line_reader(list(COMMANDS))
    add = recall(default_history(os.environ) if keeps_history else None)
    chat_loop(answer, conversation, partial(_read, read_line, add), screen)
    if sys.stdin.isatty():
        print()


def _read(read_line: Callable[[bool], str], add: Callable[[str], None]) -> Typed:
    """Reads what the user types; the first Ctrl-C only discards it, so that one which comes just
    after the end of an answer does not end the conversation.
    """
    was_interrupted = False
    while True:
        try:
            typed = read_message(read_line)
        except Interrupted:
            print()
            if was_interrupted:
                end_now()
            was_interrupted = True
            say("[Ctrl-C again ends, and so does Ctrl-D]")
        else:
            if typed.text:
                add(typed.text)
            return typed
