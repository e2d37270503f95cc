"""`flaxen route check`, `preview` and `explain` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from flaxen.cli.main import main
from flaxen.cli.route import group
from tests.cli.route.files import CONFIG, file, run

__all__ = ["file"]


def test_a_file_is_checked(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    assert run(capsys, "check", file) == (
        0,
        [
            "recipe own: 2 decisions, 2 signals",
            "  asked for as: clever",
            "  signals that need a model: domain:law",
        ],
    )
    cache = "plugins: [{type: response_cache, configuration: {}}, {type: fast_response"
    file.write_text(CONFIG.replace("plugins: [{type: fast_response", cache))
    line = "  signals that need a model: domain:law, the likeness of requests"
    assert run(capsys, "check", file)[1][-1] == line
    file.write_text(CONFIG.replace("defaults: {model: small}", "defaults: {mode: small}"))
    code, lines = run(capsys, "check", file)
    assert code == 1
    [line] = lines
    assert line == f"{file}, line 3: providers.defaults.mode: unknown key: did you mean model?"


def test_a_request_is_previewed(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    code, lines = run(capsys, "preview", file, "--prompt", "prove it", "--body")
    assert code == 0
    assert lines[:6] == [
        "reason: single: the only candidate",
        "plugins: system_prompt",
        "x-vsr-selected-recipe: own",
        "x-vsr-selected-decision: hard",
        "x-vsr-selected-confidence: 1.0000",
        "x-vsr-selected-model: large",
    ]
    system = {"role": "system", "content": "Think."}
    body = {"messages": [system, {"role": "user", "content": "prove it"}], "model": "large"}
    assert json.loads("\n".join(lines[6:])) == body


def test_a_body_says_how_its_model_reasons(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    text = CONFIG.replace("{name: large}", "{name: large, reasoning: {family: gpt-oss}}")
    text = text.replace("[{model: large}]\n          plugins:\n            - ", "[{model: large, "
                        "use_reasoning: true}]\n          plugins:\n            - ")  # fmt: skip
    file.write_text(text)
    _, lines = run(capsys, "preview", file, "--prompt", "prove it", "--body")
    told = json.loads("\n".join(lines[6:]))["chat_template_kwargs"]
    assert told == {"reasoning_effort": "medium"}


def test_signals_of_a_model_are_unknown(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    assert run(capsys, "preview", file, "-p", "hello") == (
        1,
        [
            "reason: refused: domain:law unknown, and on_unknown is fail_request",
            "unknown: domain:law",
            "x-vsr-selected-recipe: own",
            "x-vsr-selected-decision: legal",
            "x-vsr-selected-confidence: 0.0000",
        ],
    )
    file.write_text(CONFIG.replace("fail_request", "match"))
    code, lines = run(capsys, "preview", file, "-p", "hello", "--body")
    assert code == 0
    assert lines[0] == "reason: fast_response answers"
    assert "answered at once: status 200" in lines
    file.write_text(CONFIG.replace("fail_request", "no_match"))
    code, lines = run(capsys, "preview", file, "-p", "hello")
    assert (code, lines[-1]) == (0, "x-vsr-selected-model: small")


@pytest.mark.parametrize("api", ["chat", "completions", "responses", "messages", "embeddings"])
def test_requests_of_all_apis(capsys: pytest.CaptureFixture[str], file: Path, api: str) -> None:
    for arguments in (("-p", "prove it"), ("-p", "prove it", "--model", "clever")):
        _, lines = run(capsys, "preview", file, "--api", api, *arguments)
        assert "x-vsr-selected-decision: hard" in lines


def test_a_request_from_a_file(
    capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path
) -> None:
    request = tmp_path / "request.json"
    message = {"role": "user", "content": "prove it"}
    request.write_text(json.dumps({"model": "clever", "messages": [message]}))
    code, lines = run(capsys, "preview", file, request, "-H", "X-A: b")
    assert code == 0
    assert "x-vsr-selected-decision: hard" in lines
    array = tmp_path / "array.json"
    array.write_text("[]")
    for arguments, words in (
        ((), "give a REQUEST or a --prompt"),
        (("-p", "a", request), "give a REQUEST or a --prompt"),
        ((array,), "must be an object of JSON"),
        ((request, "--model", "small"), "for 'small' passes untouched; names that are decided: cl"),
        (("-p", "a", "-H", "x"), "--header must be NAME:VALUE"),
    ):
        code, [line] = run(capsys, "preview", file, *arguments)
        assert code == 2
        assert words in line


def test_a_request_is_explained(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    assert run(capsys, "explain", file, "-p", "hi") == (
        0,
        [
            "hard (priority 20)",
            "  AND = false",
            "    keyword:proof = false: found no keyword",
            "legal (priority 10, wins)",
            "  AND = unknown",
            "    domain:law = unknown: no model computes it in this command",
            "model: none (refused: domain:law unknown, and on_unknown is fail_request)",
        ],
    )


def test_a_file_alone_is_served(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the group has the command `serve`, `flaxen route FILE` is `flaxen route serve FILE`."""
    other = typer.Typer(cls=group.app.info.cls)
    for name in ("serve", "check"):
        other.command(name)(lambda file, name=name: print(name, file))
    command = typer.main.get_command(other)
    for given, ran in (
        (["a.yaml"], "serve a.yaml"),
        (["serve", "a.yaml"], "serve a.yaml"),
        (["check", "a.yaml"], "check a.yaml"),
    ):
        command.main(given, standalone_mode=False)
        assert capsys.readouterr().out.strip() == ran


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["route", "-h"]) == 0
    out = capsys.readouterr().out
    for name in ("check", "preview", "explain", "test", "diff"):
        assert f"│ {name} " in out
