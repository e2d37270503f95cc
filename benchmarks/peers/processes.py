"""A process group: paused, continued, measured and ended as a whole, by its id.

Linux only. Deliberately does not know what the process does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

_LOG_TAIL = 2000  # characters
_POLL_S = 0.05


class Group:
    """A process that leads a group of its own, its standard error in a log file.

    Args:
      command: what to run.
      env: added to this process's environment.
      log: written anew; also takes standard output where `talks` is false.
      talks: standard input and output are pipes to this process.
    """

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], log: Path, *, talks: bool
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        with log.open("wb") as file:
            # Ctrl-C reaches the driver only, which then ends its groups. They stay in its session,
            # so that Linux continues and ends stopped ones whose driver was killed.
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **env},
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else file,
                stderr=file,
                process_group=0,
            )

    @property
    def has_ended(self) -> bool:
        """Whether the leader has ended."""
        return self.process.poll() is not None

    def pause(self) -> None:
        """Stops the whole group (SIGSTOP), so that no idle thread of it spins."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undoes `pause`."""
        self._signal(signal.SIGCONT)

    def peak_rss_bytes(self) -> int:
        """Sum of the peaks of all processes of the group; pages that they share count twice."""
        return sum(_peak_bytes(pid) for pid in _members(self.process.pid))

    def log_tail(self) -> str:
        """The end of what was logged."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:].strip()

    def end(self, grace_s: float = 10.0) -> None:
        """Asks the whole group to end, and after `grace_s` ends what is left of it."""
        self.resume()
        self._signal(signal.SIGTERM)
        give_up_s = time.monotonic() + grace_s
        while _members(self.process.pid) and time.monotonic() < give_up_s:
            self.process.poll()  # the leader stays listed until it is waited for
            time.sleep(_POLL_S)
        self._signal(signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            _close(pipe)

    def _signal(self, number: signal.Signals) -> None:
        # The group keeps its number for as long as one member is left, so that no other gets it.
        if _members(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)


def _members(group_id: int) -> list[int]:
    """Ids of the processes in a group, ended ones that were not waited for left out."""
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except OSError:  # it ended meanwhile
            continue
        state, _, pgrp = stat.rpartition(")")[2].split()[:3]
        if int(pgrp) == group_id and state != "Z":
            members.append(int(entry.name))
    return members


def _peak_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        with contextlib.suppress(BrokenPipeError):
            pipe.close()
