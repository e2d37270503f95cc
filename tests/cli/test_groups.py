"""Groups of options: what typer sees of them, and what a command gets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from flaxen.cli.groups import expand


@dataclass(frozen=True, kw_only=True)
class Paint:
    colour: Annotated[str, typer.Option(help="Of the walls.")]
    coats: Annotated[int, typer.Option("--num-coats", min=1)] = 2
    rooms: Annotated[list[str], typer.Option("--room")] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Tools:
    brush: Annotated[int, typer.Option()] = 3

    def __post_init__(self) -> None:
        if self.brush > 9:
            raise ValueError(f"--brush {self.brush} is too large: the largest is 9")


got: list[Any] = []
WIDE = Tools(brush=8)


def renovate(
    paint: Paint,
    address: Annotated[str, typer.Argument()],
    tools: Tools = WIDE,
    quickly: Annotated[bool, typer.Option("--quickly")] = False,
) -> None:
    """Renovate a house."""
    got.append((paint, address, tools, quickly))


def call(*arguments: str) -> Any:
    app = typer.Typer(add_completion=False)
    app.command()(expand(renovate))
    return CliRunner().invoke(app, list(arguments))


def test_a_command_gets_its_groups() -> None:
    assert call("here", "--colour", "red").exit_code == 0
    assert got.pop() == (Paint(colour="red"), "here", WIDE, False)
    rooms = ["--room", "hall", "--room", "bath", "--quickly", "--brush", "2", "--num-coats", "1"]
    assert call("here", "--colour", "red", *rooms).exit_code == 0
    paint = Paint(colour="red", coats=1, rooms=["hall", "bath"])
    assert got.pop() == (paint, "here", Tools(brush=2), True)


def test_defaults_of_a_command_take_the_place_of_its_groups() -> None:
    out = call("--help").output
    assert "Renovate a house." in out
    assert "Of the walls." in out
    assert "[default: 8]" in out
    assert "[default: 2]" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["here"], "Missing option '--colour'"),
        (["here", "--colour", "red", "--num-coats", "0"], "Invalid value for '--num-coats'"),
        (["--colour", "red"], "Missing argument"),
    ],
)
def test_typer_refuses_wrong_values(arguments: list[str], message: str) -> None:
    found = call(*arguments)
    assert found.exit_code == 2
    assert message in found.output


def test_a_group_refuses_wrong_values() -> None:
    found = call("here", "--colour", "red", "--brush", "10")
    assert isinstance(found.exception, ValueError)
    assert str(found.exception) == "--brush 10 is too large: the largest is 9"


def test_an_option_twice_in_a_command_is_our_mistake() -> None:
    def command(one: Tools, brush: Annotated[int, typer.Option()] = 1) -> None: ...

    with pytest.raises(AssertionError, match="command has brush twice"):
        expand(command)
