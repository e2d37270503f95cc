"""`flaxen rm`: deletes models that were pulled."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from flaxen.cli.groups import option
from flaxen.cli.machine import ModelsDirOptions
from flaxen.cli.model_names import complete_local
from flaxen.hub.places import Places
from flaxen.hub.removal import plan_removal
from flaxen.hub.sizes import format_size


def rm(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME",
            autocompletion=complete_local,
            help="Models, by the names of flaxen list. ORG/NAME is all of a repository, "
            "ORG/NAME:Q4_K_M one file of it.",
            show_default=False,
        ),
    ],
    models: ModelsDirOptions,
    yes: bool = option(False, "--yes", "-y", help="Delete without asking."),
) -> None:
    """Delete models that were pulled, in --models-dir or else in Hugging Face's cache.

    Other programs share that cache. Files that another revision of a repository needs are kept.
    """
    places = Places(models_dir=models.models_dir)
    removals = [plan_removal(name, places) for name in dict.fromkeys(names)]
    for each in removals:
        print(f"{each.name}: {format_size(each.size)} in {each.path}", file=sys.stderr)
    if not yes:
        if not sys.stdin.isatty():
            raise ValueError("there is no terminal to ask at: give --yes to delete")
        typer.confirm("delete?", abort=True, err=True)
    for each in removals:
        each.carry_out()
    print(f"freed {format_size(sum(each.size for each in removals))}")
