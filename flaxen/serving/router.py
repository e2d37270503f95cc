"""Puts a router before the models of a server. Imports it only where one is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from flaxen.serving.server_args import ServerArgs

if TYPE_CHECKING:
    from fastapi import FastAPI

Work = Callable[[], Coroutine[Any, Any, None]]


def add_router(
    stack: ExitStack, app: FastAPI, server: ServerArgs, served: Iterable[str]
) -> list[Work]:
    """Puts the router of the arguments, if there is one, before an application.

    Args:
      stack: ends what finds its learned signals.
      served: the names of the models, adapters too.

    Returns:
      What runs beside the requests.

    Raises:
      ValueError: the router's file names models that are not there, or can't be served.
    """
    if server.router is None:
        return []
    from flaxen.routing.attaching import attach
    from flaxen.routing.http_client import HttpClient
    from flaxen.routing.service import RoutingService

    file, client = replace(server.router, served=tuple(served)), HttpClient()
    stack.callback(file.learned.close)
    router = asyncio.run(file.compile(file.read(), client))
    service = RoutingService(router=router, config=server.config, log_path=file.log_path)
    attach(app, service)
    return [partial(file.watch, service, client)]
