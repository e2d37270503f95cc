"""`flaxen route FILE`: the router as a proxy before any OpenAI-compatible servers.

Imports the web framework only when it is needed, so that --help is fast.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flaxen.cli.groups import option
from flaxen.cli.route.asked import FileArgument
from flaxen.cli.route.learned import LearnedOptions
from flaxen.serving.logs import LogFormat, LogLevel, logging_to

if TYPE_CHECKING:
    from flaxen.learned_signals.of_file import SignalsOfFile


@dataclass(frozen=True, kw_only=True)
class ProxyOptions:
    """The proxy's address, limits and log."""

    host: str | None = option(None, help="Address to listen on.", show_default="the file's")
    port: int | None = option(
        None, min=0, max=65535, help="Port.", show_default="the file's, or 8888"
    )
    max_open: int = option(1024, min=1, help="Most requests that models answer.")
    max_waiting: int = option(4096, min=0, help="Most requests that wait; others get status 429.")
    log_level: LogLevel = option(LogLevel.INFO, help="Least severity of the log.")
    log_format: LogFormat = option(LogFormat.TEXT, help="Format of the log.")


def serve(file: FileArgument, options: ProxyOptions, learned: LearnedOptions) -> None:
    """Decide which model answers each request, and send it there, until SIGTERM or Ctrl-C.

    FILE says which models there are and where, and what decides. It is read again when it changes.
    Requests for the model auto, or for an entrypoint of the file, are decided; others pass.
    """
    start_s = time.perf_counter()
    log = logging_to(sys.stderr, options.log_format, options.log_level)
    with log, contextlib.closing(learned.signals()) as signals:
        raise typer.Exit(_serve(file, options, signals, start_s))


def _serve(path: Path, options: ProxyOptions, signals: SignalsOfFile, start_s: float) -> int:
    from flaxen.router.checks import seconds
    from flaxen.router_config.models import Listener
    from flaxen.routing.attaching import proxy_app
    from flaxen.routing.file import RouterFile
    from flaxen.routing.http_client import HttpClient
    from flaxen.routing.service import RoutingService
    from flaxen.server.config import ServerConfig
    from flaxen.server.run import run
    from flaxen.serving.announcement.ready import ready_line

    file = RouterFile(path=path, environment=os.environ, served=(), learned=signals)
    config, client = file.read(), HttpClient()
    router = asyncio.run(file.compile(config, client))
    listener = config.listeners[0] if config.listeners else Listener(port=8888)
    timeout_s = seconds("timeout", listener.timeout)
    service = RoutingService(
        router=router,
        config=ServerConfig(api_keys=listener.api_keys, request_timeout_s=timeout_s),
        max_open=options.max_open,
        max_waiting=options.max_waiting,
        log_path=file.log_path,
    )

    def say_ready(url: str) -> None:
        gc.freeze()  # a collection that looks at all of them takes 0.1 s and more
        line = ready_line(path.name, url, round(time.perf_counter() - start_s, 3))
        print(line, file=sys.stderr, flush=True)

    return run(
        proxy_app(service),
        service,
        host=options.host or listener.address,
        port=listener.port if options.port is None else options.port,
        on_ready=say_ready,
        beside=partial(file.watch, service, client),
    )
