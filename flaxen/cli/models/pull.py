"""`flaxen pull`: downloads a model from the Hugging Face hub."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flaxen.cli.groups import option
from flaxen.cli.machine import ModelsDirOptions
from flaxen.cli.model_names import complete_pulled
from flaxen.cli.progress import show_download
from flaxen.hub.names import NAMED, HubModel, PackagedModel, nearest, parse_hub_name
from flaxen.hub.places import Places
from flaxen.hub.pull import Plan, download, plan
from flaxen.hub.resolve import resolve
from flaxen.hub.selection import RepoFile, quantization_of
from flaxen.hub.sizes import format_size


def pull(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            autocompletion=complete_pulled,
            help="Repository of the Hugging Face hub as ORG/NAME, with GGUF files also "
            "ORG/NAME:Q4_K_M or ORG/NAME:FILE.gguf; or a short name such as qwen3-0.6b.",
            show_default=False,
        ),
    ],
    models: ModelsDirOptions,
    revision: str | None = option(
        None,
        help="Branch, tag or commit of the repository; the model's name is then REPO@REVISION.",
        show_default="main",
    ),
) -> None:
    """Download a model, or go on with a download that broke off, and print where it is.

    Other commands download a model that is not here too; pull also looks for a newer revision.
    """
    if path := _packaged(model):
        print(path)
        return
    wanted = pulled_name(model, revision)
    console = Console(stderr=True)
    places = Places(models_dir=models.models_dir)
    planned = plan(wanted, places)
    for line in describe(planned):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    with show_download(console) as on_download:
        path = download(planned, places, on_download)
    hint = f"talk to it: flaxen chat {wanted}"
    if models.models_dir is not None:
        hint += f" --models-dir {shlex.quote(str(models.models_dir))}"
    console.print(hint, soft_wrap=True, highlight=False, markup=False)
    print(path)


def _packaged(model: str) -> Path | None:
    """The file of a model that comes with a Python package; None for the other models."""
    return resolve(model) if isinstance(NAMED.get(model), PackagedModel) else None


def pulled_name(model: str, revision: str | None) -> HubModel:
    """Reads the name of a model to download.

    Raises:
      ValueError: it is no name of the hub.
    """
    wanted = parse_hub_name(model)
    if wanted is None or "/" not in wanted.repo:
        meant = nearest(model)
        raise ValueError(
            f"{model!r} is no repository of the Hugging Face hub: "
            + (f"did you mean {meant}? Or write " if meant else "write ")
            + f"ORG/NAME, ORG/NAME:Q4_K_M, or one of {', '.join(NAMED)}"
        )
    if revision is None:
        return wanted
    if wanted.revision != "main" and wanted.revision != revision:
        raise ValueError(f"{model} and --revision {revision} name two revisions: leave one out")
    return wanted._replace(revision=revision)


def describe(planned: Plan) -> list[str]:
    """Says what will be downloaded, how large it is, and why a quantization was chosen."""
    selection = planned.selection
    lines = []
    if selection.others:
        listed = ", ".join(sorted(map(_described, selection.others)))
        chosen = _described(selection.files[0])
        lines.append(f"no quantization was named, so it is {chosen}; there are also {listed}")
    num_files = len(selection.files)
    files = selection.files[0].name if num_files == 1 else f"{num_files} files"
    what = f"{planned.model} at {planned.commit[:12]}: {files}, {format_size(selection.size)}"
    if not planned.missing:
        lines.append(f"{what}, all of it here")
        return lines
    if planned.num_missing < selection.size:
        what += f", of which {format_size(planned.num_missing)} are missing"
    where = planned.target.root
    lines.append(f"{what}, into {where} ({format_size(planned.num_free)} free)")
    return lines


def _described(file: RepoFile) -> str:
    return f"{quantization_of(file.name) or file.name} ({format_size(file.size)})"
