"""The models of `flaxen serve`: MODEL..., each with the names that it was given.

Deliberately does not know how models are found or loaded.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from flaxen.cli.model_names import complete_model
from flaxen.cli.options import MODEL_HELP

ModelsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL...",
        help=f"{MODEL_HELP} Several are served beside each other; NAME=MODEL (or NAME,ALIAS=MODEL) "
        "says what clients call one.",
        show_default=False,
        autocompletion=complete_model,
    ),
]


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """A model as the user gave it, and the names for it; () leaves its own name."""

    model: str
    names: tuple[str, ...]


def name_models(given: Sequence[str], served_model_names: Sequence[str]) -> list[NamedModel]:
    """Reads the arguments.

    Args:
      given: MODEL, NAME=MODEL or NAME,ALIAS=MODEL, at least one.
      served_model_names: --served-model-name, for a single model.

    Raises:
      ValueError: a name is empty, or names are given in two ways, or for several models at once.
    """
    models = [_read(each) for each in given]
    if not served_model_names:
        return models
    if len(models) > 1:
        raise ValueError(
            f"--served-model-name does not say which of {len(models)} models it names: give each "
            "its name as NAME=MODEL, or NAME,ALIAS=MODEL"
        )
    if models[0].names:
        raise ValueError(
            f"{given[0]} and --served-model-name both name the model: give one of them"
        )
    return [NamedModel(model=models[0].model, names=tuple(served_model_names))]


def _read(given: str) -> NamedModel:
    names, equals, model = given.partition("=")
    # The path of a file may have an equals sign too.
    if not equals or os.path.exists(os.path.expanduser(given)):
        return NamedModel(model=given, names=())
    found = tuple(name.strip() for name in names.split(","))
    if not model or not all(found):
        raise ValueError(f"{given!r} is not NAME=MODEL or NAME,ALIAS=MODEL: a part of it is empty")
    return NamedModel(model=model, names=found)
