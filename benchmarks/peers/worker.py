"""The driver's half of the conversation with a worker: requests in, seconds out, within a time.

Deliberately does not know engines or workloads. The other half is workers/jsonlines.py.
"""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .processes import Group

_PIPE_BYTES = 4096  # a pipe that `select` calls writable takes this many at once (PIPE_BUF)


class WorkerError(Exception):
    """The worker failed, ended or took too long: it must not be used again."""


class UnsupportedError(Exception):
    """The worker can't run these requests; it may run others."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one batch of requests took."""

    wall_s: float
    num_tokens: int  # generated


class Worker:
    """Speaks with a group's leader. Starts nothing: `ready` waits for the engine to load."""

    def __init__(self, group: Group) -> None:
        assert group.process.stdin is not None
        assert group.process.stdout is not None
        self.group = group
        self._stdin = group.process.stdin.fileno()
        self._stdout = group.process.stdout.fileno()
        self._held = b""  # read, and not yet a whole line

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
        """Runs requests that are there at once.

        Raises:
          WorkerError: it failed, ended, took longer, or generated too few tokens or too many.
          UnsupportedError: it can't run such requests.
        """
        give_up_s = time.monotonic() + timeout_s
        request = {"prompts": list(map(list, prompts)), "num_outputs": list(num_outputs)}
        self._write(json.dumps(request).encode() + b"\n", give_up_s)
        reply = self._read(give_up_s)
        if "unsupported" in reply:
            raise UnsupportedError(reply["unsupported"])
        if "error" in reply:
            raise WorkerError(f"{reply['error']} (all of it is in {self.group.log})")
        if reply["num_tokens"] != sum(num_outputs):
            raise WorkerError(
                f"it generated {reply['num_tokens']} tokens where {sum(num_outputs)} were asked "
                "for: its times are not comparable"
            )
        return Run(wall_s=reply["wall_s"], num_tokens=reply["num_tokens"])

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
