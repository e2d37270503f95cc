"""`flaxen list`: the models on this machine."""

from __future__ import annotations

import json
import sys
import time

from flaxen.cli.groups import option
from flaxen.cli.machine import ModelsDirOptions
from flaxen.hub.inventory import LocalModel, list_models
from flaxen.hub.places import Places
from flaxen.hub.sizes import format_size


def list_command(
    models: ModelsDirOptions,
    verbose: bool = option(False, "--verbose", "-v", help="Show where each model is."),
    as_json: bool = option(False, "--json", help="Print one JSON list."),
) -> None:
    """List the models on this machine, by the names that MODEL takes.

    These are models in Hugging Face's cache, in --models-dir, and in Python packages.
    """
    found = list_models(Places(models_dir=models.models_dir))
    if as_json:
        print(json.dumps([_as_json(each) for each in found], indent=1))
        return
    if not found:
        print("no models here: `flaxen pull smollm2-360m` downloads one", file=sys.stderr)
        return
    for line in table(found, time.time(), verbose):
        print(line)
    unfinished = [each.name for each in found if each.kind == "incomplete"]
    if unfinished:
        print(
            "an incomplete download goes on with the `flaxen pull` that began it, and is deleted "
            f"by `flaxen rm {unfinished[0]}`",
            file=sys.stderr,
        )


def table(models: list[LocalModel], now: float, verbose: bool) -> list[str]:
    """The lines of a table, as wide as its contents."""
    rows = [["NAME", "KIND", "FORMAT", "SIZE", "MODIFIED", "PATH"]]
    for each in models:
        age = _age(now - each.modified)
        size = format_size(each.size)
        rows.append([each.name, each.kind, each.format or "-", size, age, str(each.path)])
    if not verbose:
        rows = [row[:-1] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return [line.rstrip() for line in lines]


def _age(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        number = int(seconds // length)
        if number:
            return f"{number} {unit}{'s' if number > 1 else ''} ago"
    return "now"


def _as_json(model: LocalModel) -> dict[str, str | int | float | None]:
    return vars(model) | {"path": str(model.path), "modified": round(model.modified)}
