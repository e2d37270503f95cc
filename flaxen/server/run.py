"""Listens, serves an application, and shuts it down in order. Deliberately does not know routes.

uvicorn's own signal handling does not fit: on the first signal it stops accepting, so that a load
balancer sees refused connections instead of a 503; it waits for open streams without a limit; and
it raises the signal again at the end, so that the process never exits with 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import stat
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Protocol

import uvicorn
from starlette.types import ASGIApp

from flaxen.protocol import EngineBrokenError, EngineClosedError

logger = logging.getLogger("flaxen.server")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_KEEP_ALIVE_S = 75  # above the 60 s after which load balancers usually close idle connections
_FLUSH_S = 5  # seconds to write responses after the engine has ended their requests
_WATCH_S = 1.0  # between two checks of the engine


class OpenRequests(Protocol):
    """The numbers of EngineStats that a server reads."""

    @property
    def num_running(self) -> int: ...

    @property
    def num_waiting(self) -> int: ...

    @property
    def num_aborted(self) -> int: ...


class Drained(Protocol):
    """What computes the answers: an engine, several, or the servers behind a router. Its methods
    are those of EngineClient."""

    def stats(self) -> OpenRequests: ...

    def check_health(self) -> None: ...

    async def close(self, drain_s: float = 0.0) -> None: ...


def run(
    app: ASGIApp,
    engine: Drained,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    uds: str | None = None,
    drain_s: float = 30.0,
    on_ready: Callable[[str], None] | None = None,
    beside: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> int:
    """Serves until SIGTERM or SIGINT, then drains, closes the engine and returns.

    From the first signal on, /health and new requests get 503 while open ones finish; those that
    still run after `drain_s` seconds are aborted. A second signal ends the process at once. If the
    engine breaks, the server ends too, so that the process's supervisor can restart it.

    Args:
      host: address to listen on.
      port: TCP port; 0 takes a free one.
      uds: path of a Unix socket to listen on, in place of host and port.
      on_ready: called with the server's URL once it accepts connections.
      beside: work that runs beside the requests, from then on until the first signal.

    Returns:
      The exit code: 0, or 1 if the engine broke.

    Raises:
      OSError: the address can't be listened on.
    """
    with listen(host, port, uds) as listener:
        return asyncio.run(
            serve(app, engine, listener, drain_s=drain_s, on_ready=on_ready, beside=beside)
        )


async def serve(
    app: ASGIApp,
    engine: Drained,
    listener: socket.socket,
    *,
    drain_s: float,
    on_ready: Callable[[str], None] | None = None,
    beside: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> int:
    """Like `run`, on a listening socket, in a running event loop of the main thread."""
    server = _Server(_config(app))
    loop, signalled = asyncio.get_running_loop(), asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if signalled.is_set():
            # The user has asked twice: skip any cleanup that could hang.
            os._exit(128 + number)
        logger.info(
            "%(signal)s: open requests get up to %(drain_s)g s to finish, and new ones are "
            "refused; a second signal ends the server at once",
            {"signal": number.name, "drain_s": drain_s},
            extra={"open_sequences": _num_open(engine)},
        )
        signalled.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(signalled.wait())
    breaking = asyncio.create_task(_until_broken(engine))
    working: asyncio.Task[None] | None = None
    try:
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if server.started and on_ready is not None:
            on_ready(url_of(listener))
        if server.started and beside is not None:
            working = asyncio.create_task(beside())
        await asyncio.wait((serving, stopping, breaking), return_when=asyncio.FIRST_COMPLETED)
        broke = breaking.done()
        if working is not None:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        # The listener stays open while the engine drains, and the routes answer 503.
        began_s, num_aborted = time.monotonic(), engine.stats().num_aborted
        await engine.close(drain_s if signalled.is_set() else 0.0)
        server.should_exit = True
        await serving
        logger.info(
            "stopped",
            extra={
                "seconds": round(time.monotonic() - began_s, 3),
                "aborted_requests": engine.stats().num_aborted - num_aborted,
            },
        )
        return int(broke)
    finally:
        stopping.cancel()
        breaking.cancel()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_FLUSH_S,
    )


def _num_open(engine: Drained) -> int:
    stats = engine.stats()
    return stats.num_running + stats.num_waiting


async def _until_broken(engine: Drained) -> None:
    while True:
        try:
            engine.check_health()
        except EngineBrokenError as error:
            logger.critical("the server ends: %s", error)
            return
        except EngineClosedError:  # the engine drains
            pass
        await asyncio.sleep(_WATCH_S)


def listen(host: str, port: int, uds: str | None = None) -> socket.socket:
    """Returns a listening socket. The path of a Unix socket on which nobody listens is reused.

    Raises:
      OSError: the address is in use, is not this machine's, or is not allowed.
    """
    if uds is not None:
        return _listen_unix(uds)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(
            f"can't listen on {host}:{port}: {error.strerror or error}. Another program may use "
            "the port: choose another --port, or check --host"
        ) from error


def url_of(listener: socket.socket) -> str:
    """The URL under which a listening socket is reached."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen_unix(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Only a socket that a killed server left behind may be removed; anything else is not ours.
        if os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode) and not _answers(path):
            os.unlink(path)
        listener.bind(path)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise OSError(
            f"can't listen on the Unix socket {path}: {error.strerror or error}. Choose a path "
            "that does not exist yet, in a folder that can be written"
        ) from error
    return listener


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(path) == 0


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: `serve` has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
