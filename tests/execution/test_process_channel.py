"""Messages between processes, and the ends of their connections."""

from __future__ import annotations

import io
import queue
import socket
import threading
from typing import Any

import numpy as np
import pytest

from flaxen.execution.processes import frames
from flaxen.execution.processes.channel import CLOSE, SECRET_BYTES, Follower, Leader

SECRET = b"s" * SECRET_BYTES


def test_a_message_is_what_was_sent() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    sent = [1, 2.5, True, None, "text", (values.T, np.bool_(True)), {"a": np.zeros(0, np.int32)}]
    name, got = frames.read(io.BytesIO(frames.encode("call", sent)).read)
    assert (name, got[:5]) == ("call", sent[:5])
    np.testing.assert_array_equal(got[5][0], values.T)
    assert got[5][1].dtype == np.bool_
    assert got[5][1].shape == ()
    assert got[6]["a"].shape == (0,)


def test_a_message_has_no_objects() -> None:
    with pytest.raises(ValueError, match="OBJECT array"):
        frames.read(io.BytesIO(frames.encode("call", [np.array([{}], object)])).read)


class Connected:
    """A leader and a follower, and what each says of the other's end."""

    def __init__(self) -> None:
        self.lost: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()[:2]
            made: list[Leader] = []
            accepting = threading.Thread(
                target=lambda: made.append(Leader(listener, SECRET, 1, self._on_lost("leader")))
            )
            accepting.start()
            stranger = socket.create_connection(address)
            stranger.sendall(b"x" * (SECRET_BYTES + 4))
            self.follower = Follower(address, SECRET, 1, self._on_lost("follower"))
            accepting.join(10)
            self.stranger_got = stranger.recv(1)
            stranger.close()
        (self.leader,) = made

    def _on_lost(self, who: str) -> Any:
        return lambda message: self.lost.put((who, message))


def test_messages_arrive_in_order_and_the_end_is_said() -> None:
    both = Connected()
    for number in range(20):
        both.leader.send("step", [number, np.full(1000, number)])
    both.leader.close()
    both.leader.close()
    for number in range(20):
        name, (got, values) = both.follower.next()
        assert (name, got, int(values[-1])) == ("step", number, number)
    assert both.follower.next() == (CLOSE, None)
    both.follower.close()
    assert both.lost.empty()


def test_a_stranger_is_told_nothing() -> None:
    both = Connected()
    assert both.stranger_got == b""
    both.leader.close()


def test_the_end_of_a_follower_is_noticed() -> None:
    both = Connected()
    both.follower.close()
    who, message = both.lost.get(timeout=10)
    assert who == "leader"
    assert both.lost.empty()  # it has closed its own end
    assert message.startswith("process 1 has ended, and nothing can be computed without it")
    both.leader.send("step", [])  # to nobody, which is no error


def test_the_end_of_process_0_is_noticed() -> None:
    both = Connected()
    (connection,) = both.leader._connections.values()
    connection.sendall(frames.encode("step", [np.zeros(100)])[:50])
    connection.shutdown(socket.SHUT_RDWR)
    said = dict([both.lost.get(timeout=10), both.lost.get(timeout=10)])
    assert said["follower"].startswith("process 0 has ended without saying that it would")


def test_a_message_that_cannot_be_read_ends_the_follower() -> None:
    both = Connected()
    (connection,) = both.leader._connections.values()
    connection.sendall(frames.encode("step", [])[:4] + b"not JSON at all")
    said = dict([both.lost.get(timeout=10), both.lost.get(timeout=10)])
    assert said["follower"].startswith("process 0 sent a message that can't be read")


def test_processes_that_do_not_come_are_named() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(ConnectionError, match="the processes 1, 2 did not connect within 0 s"),
    ):
        Leader(listener, SECRET, 2, lambda message: None, wait_s=0.01)


def test_processes_that_are_abandoned_end_with_a_message() -> None:
    both = Connected()
    both.leader.abandon()
    who, message = both.lost.get(timeout=10)
    assert who == "follower"
    assert message.startswith("process 0 has ended without saying that it would")
