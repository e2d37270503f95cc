"""Connects process 0 with the others: they learn its address and a secret through JAX's devices.

Deliberately does not know: what is sent then.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import secrets
import socket
import sys
from collections.abc import Iterator

import numpy as np

from flaxen.engine.processes.channel import CLOSE, SECRET_BYTES, Follower, Leader
from flaxen.sharding.processes import Processes, from_process_0, least_of_all

_HOST_BYTES, _PORT_BYTES = 64, 2


def lead(processes: Processes) -> Leader:
    """Process 0's side; its end tells the others to end. All processes call theirs at once."""
    host = _own_address(processes)
    with socket.create_server((host, 0)) as listener:
        secret, port = secrets.token_bytes(SECRET_BYTES), listener.getsockname()[1]
        said = secret + port.to_bytes(_PORT_BYTES, "little")
        _exchange(said + host.encode().ljust(_HOST_BYTES, b"\0"))
        leader = Leader(listener, secret, processes.count - 1, end_process)
    atexit.register(leader.close)
    return leader


def join(processes: Processes) -> Follower:
    """The side of another process."""
    _own_address(processes)
    said = _exchange(bytes(SECRET_BYTES + _PORT_BYTES + _HOST_BYTES))
    secret, rest = said[:SECRET_BYTES], said[SECRET_BYTES:]
    port = int.from_bytes(rest[:_PORT_BYTES], "little")
    host = rest[_PORT_BYTES:].rstrip(b"\0").decode()
    return Follower((host, port), secret, processes.index, end_process)


@contextlib.contextmanager
def together(processes: Processes) -> Iterator[None]:
    """In the block, all processes end if one of them does. All of them enter and leave it."""
    if processes.count == 1:
        yield
    elif processes.index == 0:
        leader = lead(processes)
        try:
            yield
        except BaseException:
            leader.abandon()
            raise
        leader.close()
    else:
        with contextlib.closing(join(processes)) as follower:
            yield
            while follower.next()[0] != CLOSE:
                pass


def end_process(message: str) -> None:
    """Ends this process at once, from any thread: another one may wait in a collective operation
    for a process that is gone, and nothing else would bring it back.
    """
    print(f"flaxen: error: {message}", file=sys.stderr, flush=True)
    os._exit(1)


def _exchange(said: bytes) -> bytes:
    return from_process_0(np.frombuffer(said, np.uint8)).astype(np.uint8).tobytes()


def _own_address(processes: Processes) -> str:
    """Where the others reach this process; the loopback if all are on this machine."""
    digest = hashlib.sha256(socket.gethostname().encode()).digest()
    name = int.from_bytes(digest[:3], "little")
    alike = least_of_all([name, -name])
    if alike == [name, -name]:
        return "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect(("192.0.2.1", 9))  # sends nothing: asks which way the packets would go
        address: str = asking.getsockname()[0]
        return address
