"""The driver's end of the worker protocol: requests in, seconds out, within a timeout.

A request is prompts to generate from, or steps to train. Deliberately does not know engines or
workloads. The other half is workers/jsonlines.py.
"""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .processes import Group

_PIPE_BYTES = 4096  # a pipe that `select` calls writable takes this many at once (PIPE_BUF)


class WorkerError(Exception):
    """The worker failed, ended or took too long: it must not be used again."""


class UnsupportedError(Exception):
    """The worker can't run these requests; it may run others."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The time and the tokens of one batch of requests."""

    wall_s: float
    num_tokens: int  # generated


@dataclass(frozen=True, kw_only=True)
class TrainRun:
    """The time of some training steps, and the loss of each, before its update."""

    wall_s: float
    losses: list[float]


class Worker:
    """A worker, reached through its group's pipes. Starts nothing: `ready` waits for the load."""

    def __init__(self, group: Group) -> None:
        assert group.process.stdin is not None
        assert group.process.stdout is not None
        self.group = group
        self._stdin = group.process.stdin.fileno()
        self._stdout = group.process.stdout.fileno()
        self._held = b""  # bytes read that are not yet a whole line

    def ready(self, timeout_s: float) -> dict[str, str]:
        """Waits until the engine is loaded. Returns the versions of what it is made of.

        Raises:
          WorkerError: it ended, or took longer.
        """
        reply = self._read(time.monotonic() + timeout_s)
        if "ready" not in reply:
            raise WorkerError(f"its first line was {reply}, not that it is ready")
        versions: dict[str, str] = reply["ready"]
        return versions

    def run(
        self, prompts: Sequence[Sequence[int]], num_outputs: Sequence[int], timeout_s: float
    ) -> Run:
        """Runs requests that are all sent at once.

        Raises:
          WorkerError: it failed, ended, took longer, or generated too few tokens or too many.
          UnsupportedError: it can't run such requests.
        """
        request = {"prompts": list(map(list, prompts)), "num_outputs": list(num_outputs)}
        reply = self._ask(request, timeout_s)
        if reply["num_tokens"] != sum(num_outputs):
            raise WorkerError(
                f"it generated {reply['num_tokens']} tokens where {sum(num_outputs)} were asked "
                "for: its times are not comparable"
            )
        return Run(wall_s=reply["wall_s"], num_tokens=reply["num_tokens"])

    def train(self, steps: Sequence[Sequence[Sequence[int]]], timeout_s: float) -> TrainRun:
        """Runs training steps, which continue from the previous ones.

        Args:
          steps: the rows of token ids of each.
          timeout_s: for all of them.

        Raises:
          WorkerError: it failed, ended, took longer, or made too few steps or too many.
        """
        reply = self._ask({"steps": steps}, timeout_s)
        if len(reply["losses"]) != len(steps):
            raise WorkerError(
                f"it made {len(reply['losses'])} steps where {len(steps)} were asked for: its "
                "times are not comparable"
            )
        return TrainRun(wall_s=reply["wall_s"], losses=reply["losses"])

    def _ask(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        give_up_s = time.monotonic() + timeout_s
        self._write(json.dumps(request).encode() + b"\n", give_up_s)
        reply = self._read(give_up_s)
        if "unsupported" in reply:
            raise UnsupportedError(reply["unsupported"])
        if "error" in reply:
            raise WorkerError(f"{reply['error']} (all of it is in {self.group.log})")
        return reply

    def _write(self, data: bytes, give_up_s: float) -> None:
        try:
            while data:
                left_s = max(give_up_s - time.monotonic(), 0)
                if not select.select([], [self._stdin], [], left_s)[1]:
                    raise WorkerError("it did not take its requests in time")
                data = data[os.write(self._stdin, data[:_PIPE_BYTES]) :]
        except BrokenPipeError:
            raise self._ended() from None

    def _read(self, give_up_s: float) -> dict[str, Any]:
        while b"\n" not in self._held:
            left_s = max(give_up_s - time.monotonic(), 0)
            if not select.select([self._stdout], [], [], left_s)[0]:
                raise WorkerError("it did not answer in time")
            piece = os.read(self._stdout, 1 << 16)
            if not piece:
                raise self._ended()
            self._held += piece
        line, _, self._held = self._held.partition(b"\n")
        try:
            reply: dict[str, Any] = json.loads(line)
        except ValueError:
            raise WorkerError(f"it answered {line[:80]!r}, which is not JSON") from None
        return reply

    def _ended(self) -> WorkerError:
        return WorkerError(f"it ended. The end of {self.group.log}:\n{self.group.log_tail()}")


@dataclass(frozen=True, kw_only=True)
class Started:
    """A worker that is ready, and stopped until it is asked."""

    worker: Worker
    versions: dict[str, str]  # of what the engine is made of
    startup_s: float


def start(command: Sequence[str], env: Mapping[str, str], log: Path, timeout_s: float) -> Started:
    """Starts an engine and waits until it is loaded.

    Args:
      command: of the worker.
      env: added to this process's environment.
      log: for its standard error.
      timeout_s: to load.

    Raises:
      WorkerError: it is not there, ended, or took longer. It does not run then.
    """
    start_s = time.monotonic()
    try:
        group = Group(command, env, log, talks=True)
    except OSError as error:  # its Python does not exist
        raise WorkerError(f"it can't be started: {error}") from error
    worker = Worker(group)
    try:
        versions = worker.ready(timeout_s)
    except BaseException:
        group.end()
        raise
    startup_s = time.monotonic() - start_s
    group.pause()
    return Started(worker=worker, versions=versions, startup_s=startup_s)
