"""The connections from process 0 to the others, over which it tells them what to do.

TCP, because a step must wait for nothing: a message takes 0.02 ms there and back, where JAX's
key-value store takes 1.2 ms and a broadcast through the devices 3.3 ms (decision 0285). A process
that ends is noticed at once, by the end of its connection, also while all others wait for it inside
a collective operation, from which nothing else brings them back: so the process ends.

Deliberately does not know: what the messages mean, JAX.
"""

from __future__ import annotations

import contextlib
import functools
import hmac
import queue
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, final

from flaxen.execution.processes import frames

CLOSE = "close"
_CONNECT_S = 60.0
_HELLO_S = 5.0  # until who connects has said who it is
SECRET_BYTES = 32
_INDEX_BYTES = 4

OnLost = Callable[[str], None]


@final
class Leader:
    """Process 0's side. `send` may be called by any thread.

    Args:
      listener: a socket that listens.
      secret: what the others must know, so that nobody else is told anything.
      num_followers: how many processes connect.
      on_lost: called with a message, on a thread of its own, if one of them ends before `close`.
      wait_s: seconds until all must have connected.

    Raises:
      ConnectionError: not all of them connected in time.
    """

    def __init__(
        self,
        listener: socket.socket,
        secret: bytes,
        num_followers: int,
        on_lost: OnLost,
        *,
        wait_s: float = _CONNECT_S,
    ) -> None:
        self._lock = threading.Lock()  # guards the next two
        self._is_closed = False
        self._connections = _accept(listener, secret, num_followers, wait_s)
        self._on_lost = on_lost
        for index, connection in self._connections.items():
            threading.Thread(
                target=self._watch, args=(index, connection), name="flaxen-watch", daemon=True
            ).start()

    def send(self, name: str, arguments: Any) -> None:
        """Sends a message to all of them, in the order of the calls."""
        message = frames.encode(name, arguments)
        with self._lock:
            for connection in self._connections.values():
                try:
                    connection.sendall(message)
                except OSError:  # `_watch` sees it too, and says so
                    continue

    def close(self) -> None:
        """Tells them that nothing follows."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self.send(CLOSE, None)
        for connection in self._connections.values():
            _shut_down(connection, socket.SHUT_WR)

    def abandon(self) -> None:
        """Ends the connections without saying so: the others end with a message."""
        with self._lock:
            self._is_closed = True
        for connection in self._connections.values():
            _shut_down(connection, socket.SHUT_RDWR)

    def _watch(self, index: int, connection: socket.socket) -> None:
        """Waits for the connection's end: a follower sends nothing."""
        with connection, contextlib.suppress(OSError):
            connection.recv(1)
        with self._lock:
            is_closed = self._is_closed
        if not is_closed:
            self._on_lost(
                f"process {index} has ended, and nothing can be computed without it, so this "
                f"process ends too. See what process {index} said, and start all processes again"
            )


@final
class Follower:
    """The side of another process. Messages are received on a thread of their own.

    Args:
      address: of process 0.
      secret: as in Leader.
      index: of this process.
      on_lost: called with a message, on that thread, if process 0 ends without `close`.
    """

    def __init__(
        self, address: tuple[str, int], secret: bytes, index: int, on_lost: OnLost
    ) -> None:
        self._connection = socket.create_connection(address, timeout=_CONNECT_S)
        self._connection.settimeout(None)
        self._connection.sendall(secret + index.to_bytes(_INDEX_BYTES, "little"))
        self._on_lost, self._is_closed = on_lost, False
        self._messages: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._receive, name="flaxen-receive", daemon=True).start()

    def next(self) -> tuple[str, Any]:
        """Waits for the next message; the last one is CLOSE."""
        return self._messages.get()

    def close(self) -> None:
        """Ends the connection; process 0 ends then, unless it has said CLOSE."""
        self._is_closed = True
        _shut_down(self._connection, socket.SHUT_RDWR)

    def _receive(self) -> None:
        with self._connection, self._connection.makefile("rb") as stream:
            name = ""
            while name != CLOSE:
                try:
                    name, arguments = frames.read(functools.partial(_read_exactly, stream))
                except OSError:
                    break
                except ValueError as error:
                    self._on_lost(
                        f"process 0 sent a message that can't be read ({error}), so this process "
                        "ends. Start all processes with the same version of flaxen"
                    )
                    return
                self._messages.put((name, arguments))
        if name != CLOSE and not self._is_closed:
            self._on_lost(
                "process 0 has ended without saying that it would (it was killed, or the network "
                "to it is gone), so this process ends too. See what process 0 said, and start all "
                "processes again"
            )


def _read_exactly(stream: BinaryIO, size: int) -> bytes:
    found = stream.read(size)
    if len(found) < size:
        raise ConnectionError("the connection ended")
    return found


def _accept(
    listener: socket.socket, secret: bytes, num_followers: int, wait_s: float
) -> dict[int, socket.socket]:
    """The connection of each follower, by its index. Strangers are told nothing."""
    listener.settimeout(wait_s)
    found: dict[int, socket.socket] = {}
    while len(found) < num_followers:
        try:
            connection, _ = listener.accept()
        except TimeoutError as error:
            missing = sorted({*range(1, num_followers + 1)} - set(found))
            raise ConnectionError(
                f"{_name(missing)} did not connect within {wait_s:.0f} s: see what they say, "
                "and whether a firewall is between the machines"
            ) from error
        connection.settimeout(_HELLO_S)
        said = _receive_exactly(connection, len(secret) + _INDEX_BYTES)
        if not hmac.compare_digest(said[: len(secret)], secret):
            connection.close()
            continue
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        found[int.from_bytes(said[len(secret) :], "little")] = connection
    return found


def _receive_exactly(connection: socket.socket, size: int) -> bytes:
    """The next bytes; fewer if the connection ends, or is silent for too long."""
    found = b""
    with contextlib.suppress(OSError):
        while len(found) < size and (more := connection.recv(size - len(found))):
            found += more
    return found


def _name(indices: Sequence[int]) -> str:
    return ("process " if len(indices) == 1 else "the processes ") + ", ".join(map(str, indices))


def _shut_down(connection: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):  # it has ended already
        connection.shutdown(how)
