"""Publishes batches of events over ZeroMQ, numbered, on a thread of its own.

A message is three frames: the topic, the batch's number (8 bytes, big-endian), and the batch in
msgpack, [seconds since 1970, events, rank]. A subscriber that sees a gap in the numbers sends the
first one that it misses to the replay endpoint, and gets those that are still there, then one with
the number -1.
"""

from __future__ import annotations

import logging
import queue
import time
from collections import deque
from collections.abc import Sequence
from threading import Thread
from typing import Any, final

from flaxen.kv_events.config import KvEventsConfig

_LOG = logging.getLogger(__name__)
_POLL_S = 0.1  # between two looks for requests of old batches
_END = (-1).to_bytes(8, "big", signed=True)
Event = dict[str, Any]  # an event's fields by vLLM's names, and its "type"


@final
class Publisher:
    """Publishes the events of one engine until `close`.

    Args:
      config: where.
      rank: the data replica's number; its endpoints are that many ports higher.

    Raises:
      ValueError: an endpoint can't be used.
    """

    def __init__(self, config: KvEventsConfig, rank: int = 0) -> None:
        import zmq

        self._rank, self._topic = rank, config.topic.encode()
        self._queue: queue.Queue[list[Event] | None] = queue.Queue(config.max_queue_size)
        self._buffer: deque[tuple[int, bytes]] = deque(maxlen=config.buffer_steps)
        self._number = 0
        self._num_lost = 0
        self._context = zmq.Context()
        self._out, self._replay = self._context.socket(zmq.PUB), None
        self._out.set_hwm(config.hwm)
        try:
            endpoint = _of_rank(config.endpoint, rank)
            is_ours = (
                "*" in endpoint or "::" in endpoint or endpoint.startswith(("ipc:", "inproc:"))
            )
            (self._out.bind if is_ours else self._out.connect)(endpoint)
            if config.replay_endpoint is not None:
                self._replay = self._context.socket(zmq.ROUTER)
                self._replay.bind(_of_rank(config.replay_endpoint, rank))
        except (zmq.ZMQError, ValueError) as error:
            self._context.destroy(linger=0)
            raise ValueError(
                f"kv_events_config: {config.endpoint} or {config.replay_endpoint} can't be used: "
                f"{error}"
            ) from error
        self._thread = Thread(target=self._run, name="flaxen-kv-events", daemon=True)
        self._thread.start()

    def publish(self, events: list[Event]) -> None:
        """Publishes a batch, in order; never waits. If too many wait, it is lost, and its number
        is missing.
        """
        try:
            self._queue.put_nowait(events)
        except queue.Full:
            self._num_lost += 1

    def close(self) -> None:
        """Publishes what waits, and ends. May be repeated."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        import zmq

        while True:
            if self._replay is not None and self._replay.poll(0):
                self._send_again(self._replay)
            try:
                events = self._queue.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if events is None:
                break
            try:
                self._send(events)
            except zmq.ZMQError as error:
                _LOG.warning("KV events of a step could not be published: %s", error)
        self._context.destroy(linger=1000)

    def _send(self, events: Sequence[Event]) -> None:
        import msgpack

        lost, self._num_lost = self._num_lost, 0
        if lost:
            _LOG.warning("%d batches of KV events were lost: the publisher is too slow", lost)
        number, self._number = self._number + lost, self._number + lost + 1
        payload = msgpack.packb([time.time(), events, self._rank])
        self._buffer.append((number, payload))
        self._out.send_multipart((self._topic, number.to_bytes(8, "big"), payload))

    def _send_again(self, replay: Any) -> None:
        """Answers one request for the batches from a number on."""
        frames = replay.recv_multipart()
        if len(frames) != 3:
            _LOG.warning("a request for KV events has %d frames in place of 3", len(frames))
            return
        client, _, start = frames
        for number, payload in self._buffer:
            if number >= int.from_bytes(start, "big"):
                sent = self._topic, number.to_bytes(8, "big"), payload
                replay.send_multipart((client, b"", *sent))
        replay.send_multipart((client, b"", b"", _END, b""))


def _of_rank(endpoint: str, rank: int) -> str:
    """A data replica's own endpoint, as vLLM derives it."""
    if rank == 0:
        return endpoint
    if endpoint.startswith("inproc:"):
        return f"{endpoint}_dp{rank}"
    address, _, port = endpoint.rpartition(":")
    if not endpoint.startswith("tcp:") or not port.isdigit():
        raise ValueError("data replicas need an endpoint of tcp, with a port")
    return endpoint if port == "0" else f"{address}:{int(port) + rank}"
