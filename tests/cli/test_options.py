"""The commands' options: nothing that can be set is left out, and no default differs."""

from __future__ import annotations

import dataclasses
import inspect
from collections import defaultdict
from collections.abc import Callable
from typing import Any, get_type_hints

import pytest
import typer

from flaxen.cli.bench import bench
from flaxen.cli.chat.command import chat
from flaxen.cli.eval import evaluate
from flaxen.cli.generate.command import generate
from flaxen.cli.machine import MachineOptions
from flaxen.cli.main import app, main
from flaxen.cli.models.listing import list_command
from flaxen.cli.models.pull import pull
from flaxen.cli.models.rm import rm
from flaxen.cli.options import (
    BatchOptions,
    ChatTemplateOptions,
    ContextOptions,
    ModelOptions,
    StepSizeOptions,
    engine_args,
)
from flaxen.cli.parity import parity
from flaxen.cli.plan.command import plan
from flaxen.cli.serve.adapters import LoraOptions
from flaxen.cli.serve.command import serve
from flaxen.cli.serve.given import server_config
from flaxen.cli.serve.options import (
    RequestLimitOptions,
    ServerOptions,
    ServingOptions,
)
from flaxen.cli.serve.parser_options import ParserOptions
from flaxen.cli.train.command import train
from flaxen.engine_args import EngineArgs
from flaxen.scheduling.config import LoraLimits
from flaxen.server.config import ServerConfig

COMMANDS: dict[str, Callable[..., None]] = {
    "serve": serve, "chat": chat, "generate": generate, "bench": bench, "train": train,
    "eval": evaluate, "parity": parity, "plan": plan, "pull": pull, "list": list_command, "rm": rm,
}  # fmt: skip
# Options that have one name and several meanings: what --json writes, whose seed, which default.
# All flags of `train` are among them that another command has too: there they are settings.
OWN = {
    "--json", "--prompt", "--prompts-file", "--max-tokens", "--api-key", "--data",
    "--chat-template", "--verbose", "--batch-size", "--sequence-length", "--seed", "--dtype",
    "--definition", "--mesh", "--kv-cache-dtype",
}  # fmt: skip


def groups(command: Callable[..., None]) -> list[Any]:
    return [hint for hint in get_type_hints(command).values() if dataclasses.is_dataclass(hint)]


def defaults(group: Any) -> dict[str, Any]:
    """The defaults of the options that have one."""
    found = {}
    for field in dataclasses.fields(group):
        if field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
        elif field.default is not dataclasses.MISSING:
            found[field.name] = field.default
    return found


def options_of(name: str) -> dict[str, Any]:
    """What Click knows of each option of a command, by the name of its parameter."""
    command: Any = typer.main.get_command(app)
    return {option.name: option for option in command.commands[name].params}


def facts(option: Any) -> tuple[Any, ...]:
    shown = option.help, option.metavar, option.show_default, option.rich_help_panel
    return *option.opts, *option.secondary_opts, *shown, option.envvar, option.multiple


def test_an_option_is_declared_once() -> None:
    places: dict[str, set[object]] = defaultdict(set)
    for name, command in COMMANDS.items():
        options = options_of(name)
        names = {f.name: group for group in groups(command) for f in dataclasses.fields(group)}
        for parameter, option in options.items():
            if option.param_type_name == "option":
                places[max(option.opts, key=len)].add(names.get(parameter, name))
    assert {option for option, declared in places.items() if len(declared) > 1} == OWN


def test_an_option_of_a_group_is_the_same_in_every_command() -> None:
    seen: dict[tuple[str, str], tuple[Any, ...]] = {}
    num_checked = 0
    for name, command in COMMANDS.items():
        options = options_of(name)
        for group in groups(command):
            for field in dataclasses.fields(group):
                key = (group.__qualname__, field.name)
                num_checked += key in seen
                assert seen.setdefault(key, facts(options[field.name])) == facts(
                    options[field.name]
                )
    assert num_checked > 50


@pytest.mark.parametrize("command", ["serve", "chat", "generate", "bench", "eval", "train"])
def test_what_a_command_says_is_the_default_is_the_default(command: str) -> None:
    given = {
        parameter.name: parameter.default
        for parameter in inspect.signature(COMMANDS[command]).parameters.values()
        if dataclasses.is_dataclass(parameter.default)
    }
    own = {name: value for group in given.values() for name, value in vars(group).items()}
    options = options_of(command)
    for group in groups(COMMANDS[command]):
        for name, value in defaults(group).items():
            assert options[name].default == own.get(name, value)


@pytest.mark.parametrize("command", [serve, chat, generate, bench, evaluate])
def test_engine_defaults(command: Callable[..., None]) -> None:
    num_checked = 0
    fields = {field.name: field.default for field in dataclasses.fields(EngineArgs)}
    for group in groups(command):
        for name, default in defaults(group).items():
            if name in fields and name != "target_itl_ms":
                # An option that may be given several times is a list.
                assert (default or None) == (fields[name] or None), name
                num_checked += 1
    assert num_checked >= 4


def test_prompts_keep_a_pace_where_somebody_waits_for_each_token() -> None:
    assert ServingOptions().target_itl_ms is None  # the machine's own
    assert EngineArgs(model="m").target_itl_ms == 0  # none


def test_server_defaults() -> None:
    found = server_config(
        ServerOptions(), RequestLimitOptions(), ParserOptions(), engine_sequences=10_000
    )
    assert found == ServerConfig()


def test_a_request_asks_for_no_more_sequences_than_the_engine_holds() -> None:
    server, limits = ServerOptions(), RequestLimitOptions(max_sequences=9, request_timeout_s=0)
    assert server_config(server, limits, ParserOptions(), engine_sequences=5).max_sequences == 5
    assert server_config(server, limits, ParserOptions(), engine_sequences=50).max_sequences == 9
    assert (
        server_config(server, limits, ParserOptions(), engine_sequences=5).request_timeout_s is None
    )


def test_adapters_defaults() -> None:
    assert LoraOptions(enable_lora=True).limits() == LoraLimits()
    few = LoraOptions(enable_lora=True, max_cpu_loras=2).limits()
    assert few == LoraLimits(max_loras=2, max_cpu_loras=2)


def test_every_engine_argument_has_an_option_of_serve() -> None:
    fields = {field.name for field in dataclasses.fields(EngineArgs)}
    options = {field.name for group in groups(serve) for field in dataclasses.fields(group)}
    # MODEL is in no group; what clients call it is the server's own matter; the backend comes from
    # the environment, as the instruction set does; and memory is divided among all models.
    assert fields - options == {"model", "served_model_name", "backend", "memory_bytes"}


def test_what_no_engine_argument_comes_of_is_known() -> None:
    """A field that is misspelt would be left out in silence."""
    taken = (
        *(ModelOptions, ContextOptions, StepSizeOptions, BatchOptions),
        *(ChatTemplateOptions, ServingOptions),
    )
    options = {
        each.name for group in (*taken, MachineOptions) for each in dataclasses.fields(group)
    }
    fields = {field.name for field in dataclasses.fields(EngineArgs)}
    assert options - fields == {"threads", "compile_cache"}


def test_options_become_the_engines_arguments() -> None:
    found = engine_args("smollm2-135m", ServingOptions(max_waiting=3), max_num_seqs=2)
    assert (found.max_waiting, found.max_num_seqs, found.target_itl_ms) == (3, 2, None)
    assert (found.max_num_batched_tokens, found.compile_sizes) == (None, ())
    assert (found.model, found.served_model_name) == ("smollm2-135m", "smollm2-135m")
    with pytest.raises(ValueError, match="dtype 'float8' is not supported"):
        engine_args("smollm2-135m", dtype="float8")


@pytest.mark.parametrize(
    ("command", "said", "unsaid"),
    [
        ("chat", "default: (random)", "requests that give none"),
        ("generate", "default: (the model's own; else 0.7 in chat, 0 in generate)", "default: 0.0"),
        ("serve", "refused with status 429.", "503"),
        ("bench", "it must divide 128", "512)"),
    ],
)
def test_help_says_what_is_so(
    command: str,
    said: str,
    unsaid: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert said in out
    assert unsaid not in out
