"""The option of `flaxen serve` for a router before its models."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flaxen.routing.file import RouterFile


@dataclass(frozen=True, kw_only=True)
class RouterOptions:
    """The router."""

    router: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            help="Decide which model answers requests for the model auto, or for an entrypoint of "
            "this file, by what they ask. Models of the file are those that are served here, or "
            "have backend_refs.",
            show_default="none",
            rich_help_panel="Router",
        ),
    ] = None

    def file(self) -> RouterFile | None:
        """The file, once read, so that what is wrong with it does not wait for weights.

        Raises:
          OSError: it can't be read.
          ValueError: it can't be used.
        """
        if self.router is None:
            return None
        from flaxen.routing.file import RouterFile

        file = RouterFile(path=self.router, environment=os.environ)
        file.read()
        return file
