"""Ctrl-C and SIGTERM end a process at once, even where an exception would be dropped."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import contextlib, signal
from flaxen.cli.interrupt import end_at_signals
end_at_signals()
print("begun")
with contextlib.suppress(BaseException):  # as native code does that calls Python
    signal.raise_signal({number})
print("not reached")
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_process_at_once(number: signal.Signals, code: int) -> None:
    program = PROGRAM.format(number=int(number))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, "begun\n", "")


def test_a_signal_in_pythons_shutdown_does_not_change_the_exit_code() -> None:
    program = """
import os, signal
from flaxen.cli.interrupt import end_at_signals, ignore_signals
end_at_signals()
ignore_signals()
class AtTheEnd:
    def __del__(self, kill=os.kill, pid=os.getpid()):
        kill(pid, 2)
kept = AtTheEnd()  # is deleted after Python has restored the signals' default actions
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nothing_slow_is_imported_before_the_handlers_are_set() -> None:
    program = "import sys, flaxen.cli.start; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert not {"typer", "rich", "numpy", "jax"} & set(done.stdout.split())
