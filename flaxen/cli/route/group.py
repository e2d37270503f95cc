"""The commands of `flaxen route`; `flaxen route FILE` stands for `flaxen route serve FILE`."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from flaxen.cli.groups import expand
from flaxen.cli.route.check import check
from flaxen.cli.route.diff import diff
from flaxen.cli.route.preview import explain, preview
from flaxen.cli.route.serve import serve
from flaxen.cli.route.testing import run_probes
from flaxen.cli.route.train import train

_DEFAULT = "serve"


class _WithDefault(TyperGroup):
    """A group that runs its default command where none is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the default before arguments that begin with no command."""
        known = {*self.commands, *ctx.help_option_names}
        is_named = not args or args[0] in known or _DEFAULT not in self.commands
        return super().parse_args(ctx, args if is_named else [_DEFAULT, *args])


app = typer.Typer(
    cls=_WithDefault,
    help="Decide which model answers a request, by a file in the format of vLLM's semantic router.",
    no_args_is_help=True,
)
for _name, _command in (
    (_DEFAULT, serve),
    ("check", check),
    ("preview", preview),
    ("explain", explain),
    ("test", run_probes),
    ("diff", diff),
    ("train", train),
):
    app.command(_name)(expand(_command))
