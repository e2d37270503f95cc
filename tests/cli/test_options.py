"""The commands' options: nothing that can be set is left out, and no default differs."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from flaxen.build import EngineArgs
from flaxen.cli.bench.command import bench
from flaxen.cli.chat.command import chat
from flaxen.cli.generate import generate
from flaxen.cli.main import main
from flaxen.cli.serve.command import serve
from flaxen.server.config import ServerConfig

# The option where it has another name than the field.
ENGINE_OPTIONS = {
    "kv_cache_bytes": "kv_cache_size",
    "max_unread_bytes": "max_unread_size",
    "enable_prefix_caching": "prefix_caching",
    "compile_sizes": "compile_size",
}
SERVER_OPTIONS = {
    "api_keys": "api_key",
    "served_model_names": "served_model_name",
    "cors_origins": "cors_origin",
    "max_body_bytes": "max_body_size",
    "max_sequences": "max_sequences_per_request",
}


def defaults(command: Callable[..., None]) -> dict[str, Any]:
    parameters = inspect.signature(command).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters}


@pytest.mark.parametrize("command", [serve, chat, generate, bench])
def test_engine_defaults(command: Callable[..., None]) -> None:
    options = defaults(command)
    num_checked = 0
    for field in dataclasses.fields(EngineArgs):
        name = ENGINE_OPTIONS.get(field.name, field.name)
        # An option that is not given is None where the field is an empty tuple.
        if name in options and name not in ("model", "served_model_name"):
            assert (options[name] or None) == (field.default or None), name
            num_checked += 1
    assert num_checked >= 4


def test_prompts_keep_a_pace_where_somebody_waits_for_each_token() -> None:
    assert defaults(serve)["target_itl_ms"] is None  # the machine's own
    assert EngineArgs(model="m").target_itl_ms == 0  # none


def test_server_defaults() -> None:
    options = defaults(serve)
    for field in dataclasses.fields(ServerConfig):
        name = SERVER_OPTIONS.get(field.name, field.name)
        assert (options[name] or None) == (field.default or None), name


def test_every_engine_argument_has_an_option_of_serve() -> None:
    options = set(defaults(serve))
    fields = {field.name for field in dataclasses.fields(EngineArgs)}
    assert {ENGINE_OPTIONS.get(name, name) for name in fields} <= options


@pytest.mark.parametrize(
    ("command", "said", "unsaid"),
    [
        # Where each seed really comes from: chat draws one, generate's engine has --seed.
        ("chat", "default: (random)", "from --seed"),
        ("generate", "default: (from --seed)", "(random)"),
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
