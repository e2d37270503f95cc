"""The `flaxen` command: its subcommands, and how errors are printed.

Deliberately imports neither JAX nor the web framework: each command imports what it needs, so that
`flaxen --help` is fast.
"""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass
from typing import Annotated

import typer

import flaxen
from flaxen.cli.bench import bench
from flaxen.cli.chat.command import chat
from flaxen.cli.doctor.command import doctor
from flaxen.cli.eval import evaluate
from flaxen.cli.export import export
from flaxen.cli.generate.command import generate
from flaxen.cli.groups import expand
from flaxen.cli.merge import merge
from flaxen.cli.models.listing import list_command
from flaxen.cli.models.pull import pull
from flaxen.cli.models.rm import rm
from flaxen.cli.parity import parity
from flaxen.cli.plan.command import plan
from flaxen.cli.quantize import quantize
from flaxen.cli.route.group import app as route
from flaxen.cli.run_batch import run_batch
from flaxen.cli.serve.command import serve
from flaxen.cli.train.command import train
from flaxen.protocol import EngineClosedError


@dataclass(kw_only=True)
class _Globals:
    """Options of `flaxen` itself, given before the command."""

    arguments: list[str]  # of the whole call
    debug: bool = False


app = typer.Typer(
    name="flaxen",
    help="Define a model once in JAX, then train it and serve it through the same forward.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # main() prints errors: one line, or the plain traceback
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _command in (
    ("serve", serve),
    ("chat", chat),
    ("generate", generate),
    ("run-batch", run_batch),
    ("pull", pull),
    ("list", list_command),
    ("rm", rm),
    ("bench", bench),
    ("train", train),
    ("eval", evaluate),
    ("parity", parity),
    ("plan", plan),
    ("merge", merge),
    ("export", export),
    ("quantize", quantize),
    ("doctor", doctor),
):
    app.command(_name)(expand(_command))
app.add_typer(route, name="route")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flaxen {flaxen.__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the whole traceback of an error.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    context.obj.debug = debug


def main(arguments: list[str] | None = None) -> int:
    """Runs one command.

    Returns:
      The exit code: 0, 1 (the command failed), 2 (invalid arguments), 130 (Ctrl-C).
    """
    options = _Globals(arguments=sys.argv[1:] if arguments is None else arguments)
    try:
        app(args=arguments, prog_name="flaxen", obj=options)
    except SystemExit as end:
        return exit_code(end)
    except KeyboardInterrupt:  # if the caller has kept Python's own handler
        return 130
    except (ValueError, OSError, EngineClosedError) as error:
        if options.debug:
            traceback.print_exc()
        else:
            print(f"error: {_message(error)}", file=sys.stderr)
        return 2
    return 0


def _message(error: Exception) -> str:
    """An error's message; one of the operating system begins with the file, without a number."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def exit_code(end: SystemExit) -> int:
    """The exit code of a SystemExit; a message is printed, as in Python, and counts as 1."""
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1
