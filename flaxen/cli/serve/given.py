"""What the user gave to `flaxen serve`, and the values of a server that it comes to.

Imports the web framework only when it is needed, so that --help is fast.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from rich.console import Console

from flaxen.cli.cpu import Cpu
from flaxen.cli.machine import MachineOptions
from flaxen.cli.progress import show_progress
from flaxen.cli.serve.adapters import LoraOptions
from flaxen.cli.serve.devices import about_computing
from flaxen.cli.serve.fine_tuning import FineTuningOptions
from flaxen.cli.serve.options import RequestLimitOptions, ServerOptions
from flaxen.cli.serve.parser_options import ParserOptions
from flaxen.cli.serve.router_options import RouterOptions
from flaxen.hub.places import Places
from flaxen.serving.logs import LogFormat
from flaxen.serving.server_args import ServerArgs

if TYPE_CHECKING:
    from flaxen.build import OnProgress
    from flaxen.engine_args import EngineArgs
    from flaxen.server.config import ServerConfig


def server_config(
    server: ServerOptions,
    limits: RequestLimitOptions,
    parsers: ParserOptions,
    *,
    engine_sequences: int,
) -> ServerConfig:
    """Makes the configuration of the HTTP server.

    Args:
      server: the options of the server. Fields of a ServerConfig's name are that field, here and in
          the other groups.
      limits: the options of request limits.
      parsers: the options of parsers.
      engine_sequences: the most sequences in the engine, running and waiting. A larger request
          would get the misleading answer that the queue is full now.

    Raises:
      ValueError: a value is out of its range, or there is no parser of that name.
    """
    from flaxen.server.config import ServerConfig

    names = {each.name for each in fields(ServerConfig)}
    groups = (server, limits, parsers)
    given = {name: value for group in groups for name, value in vars(group).items()}
    found = {name: value for name, value in given.items() if name in names}
    found["max_sequences"] = min(limits.max_sequences, engine_sequences)
    found["request_timeout_s"] = limits.request_timeout_s or None
    found["template_kwargs"] = parsers.template_kwargs or {}
    return ServerConfig(**found)


@dataclass(frozen=True, kw_only=True)
class Given:
    """The option groups that both ways of serving read, and what was made of the others."""

    server: ServerOptions
    config: ServerConfig
    lora: LoraOptions
    fine_tuning: FineTuningOptions
    router: RouterOptions
    machine: MachineOptions
    places: Places
    make_args: Callable[..., EngineArgs]  # from MODEL, and fields that no option has

    def server_args(
        self, names: Sequence[str], max_rank: int, set_up: Callable[[], Cpu]
    ) -> ServerArgs:
        """The arguments of the server.

        Args:
          names: those of a single model; () where there are several, or it has its own.
          max_rank: the largest rank of an adapter.
          set_up: sets up what computes.
        """
        server = self.server
        return ServerArgs(
            config=replace(self.config, served_model_names=tuple(names)),
            host=server.host,
            port=server.port,
            uds=server.socket_path,
            log_format=server.log_format,
            is_quiet=server.quiet,
            stores=self.fine_tuning.stores(max_rank),
            fine_tuning_share=self.fine_tuning.fine_tuning_share,
            set_up=lambda: tuple(about_computing(set_up())),
            progress=self._progress,
            router=self.router.file(is_offline=self.machine.offline),
        )

    @contextlib.contextmanager
    def _progress(self) -> Iterator[OnProgress]:
        """Yields what shows a bar while models load: none with --quiet, nor beside a log in JSON,
        which programs read.
        """
        shows = not self.server.quiet and self.server.log_format is LogFormat.TEXT
        with show_progress(Console(stderr=True, quiet=not shows)) as report:
            yield report
