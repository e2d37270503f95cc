"""The option of `flaxen serve` for a router before its models."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flaxen.cli.groups import option

if TYPE_CHECKING:
    from flaxen.learned_signals.encoder import OpenEncoder
    from flaxen.routing.file import RouterFile

_ENCODER = "minilm"


@dataclass(frozen=True, kw_only=True)
class RouterOptions:
    """The router."""

    router: Path | None = option(
        None,
        metavar="FILE",
        dir_okay=False,
        help="Decide which model answers requests for the model auto, or for an entrypoint of "
        "this file, by what they ask. Models of the file are those that are served here, or "
        "have backend_refs.",
        show_default="none",
        rich_help_panel="Router",
    )
    router_encoder: str = option(
        _ENCODER,
        metavar="MODEL",
        help="The encoder that finds the router's signals which need a model; it is read for "
        "them alone, beside the models that are served.",
        rich_help_panel="Router",
    )
    router_heads: Path | None = option(
        None,
        metavar="DIR",
        exists=True,
        file_okay=False,
        help="The directory of heads, files that flaxen route train wrote for this encoder.",
        show_default="none",
        rich_help_panel="Router",
    )

    def file(self, *, is_offline: bool = False) -> RouterFile | None:
        """The file, once read, so that what is wrong with it does not wait for weights.

        Args:
          is_offline: whether the encoder must be on this machine.

        Raises:
          OSError: it can't be read.
          ValueError: it can't be used, or other options of a router are given without it.
        """
        if self.router is None:
            if self.router_heads is not None or self.router_encoder != _ENCODER:
                raise ValueError(
                    "--router-encoder and --router-heads find signals of a router's file: give it "
                    "by --router FILE, or leave them out"
                )
            return None
        from flaxen.learned_signals.of_file import SignalsOfFile
        from flaxen.routing.file import RouterFile

        signals = SignalsOfFile(partial(self._open, is_offline), self.router_heads)
        file = RouterFile(path=self.router, environment=os.environ, learned=signals)
        file.read()
        return file

    def _open(self, is_offline: bool) -> OpenEncoder:
        from flaxen.learned_signals.encoder import OpenEncoder

        return OpenEncoder(self.router_encoder, offline=is_offline)
