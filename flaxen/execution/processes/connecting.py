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
from pathlib import Path

import numpy as np

from flaxen.execution.processes.channel import CLOSE, SECRET_BYTES, Follower, Leader
from flaxen.sharding.processes import Processes, from_process_0, least_of_all

_HOST_BYTES, _PORT_BYTES = 64, 2
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # Linux alone has it


@contextlib.contextmanager
def leading(processes: Processes) -> Iterator[Leader]:
    """Process 0's side. All processes enter theirs at once; after an error of the block the others
    end too, else at the end of this process at the latest.
    """
    host = _own_address(processes)
    with socket.create_server((host, 0)) as listener:
        secret, port = secrets.token_bytes(SECRET_BYTES), listener.getsockname()[1]
        said = secret + port.to_bytes(_PORT_BYTES, "little")
        _exchange(said + host.encode().ljust(_HOST_BYTES, b"\0"))
        leader = Leader(listener, secret, processes.count - 1, end_process)
    atexit.register(leader.close)
    try:
        yield leader
    except BaseException:  # whatever it was, the others must end; it is raised again
        atexit.register(_end_alone)
        leader.abandon()
        raise


@contextlib.contextmanager
def following(processes: Processes) -> Iterator[Follower]:
    """The side of another process; after an error of the block process 0 ends too."""
    _own_address(processes)
    said = _exchange(bytes(SECRET_BYTES + _PORT_BYTES + _HOST_BYTES))
    secret, rest = said[:SECRET_BYTES], said[SECRET_BYTES:]
    port = int.from_bytes(rest[:_PORT_BYTES], "little")
    host = rest[_PORT_BYTES:].rstrip(b"\0").decode()
    with contextlib.closing(
        Follower((host, port), secret, processes.index, end_process)
    ) as follower:
        try:
            yield follower
        except BaseException:  # whatever it was, process 0 must end; it is raised again
            atexit.register(_end_alone)
            raise


@contextlib.contextmanager
def together(processes: Processes) -> Iterator[None]:
    """In the block, all processes end if one of them does. All of them enter and leave it."""
    if processes.count == 1:
        yield
    elif processes.index == 0:
        with leading(processes) as leader:
            yield
        leader.close()
    else:
        with following(processes) as follower:
            yield
            while follower.next()[0] != CLOSE:
                pass


def _end_alone() -> None:
    """At the end of a process after an error: JAX would wait for the others, which end as well, and
    abort when it learns that.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def end_process(message: str) -> None:
    """Ends this process at once, from any thread: another one may wait in a collective operation
    for a process that is gone, and nothing else would bring it back.
    """
    print(f"flaxen: error: {message}", file=sys.stderr, flush=True)
    os._exit(1)


def _exchange(said: bytes) -> bytes:
    return from_process_0(np.frombuffer(said, np.uint8)).astype(np.uint8).tobytes()


def _own_address(processes: Processes) -> str:
    """The address at which the other processes reach this one: the loopback address if all of them
    are on this machine.

    Raises:
      ValueError: this machine has no address that others could reach.
    """
    # Machines may have equal names, as containers do; a boot has an id of its own.
    boot = _BOOT_ID.read_text() if _BOOT_ID.exists() else ""
    digest = hashlib.sha256(f"{socket.gethostname()} {boot}".encode()).digest()
    name = int.from_bytes(digest[:3], "little")
    alike = least_of_all([name, -name])
    if alike == [name, -name]:
        return "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(("192.0.2.1", 9))  # sends nothing: asks which way the packets would go
        except OSError as error:
            raise ValueError(
                f"this machine has no route to others ({error.strerror}), and the other processes "
                "are on other machines: connect it to their network, or start all processes here"
            ) from None
        address: str = asking.getsockname()[0]
        return address
