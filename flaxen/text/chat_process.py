"""Runs one template in a process of its own, under limits of time, memory and output.

A template is a program that came with a model's files. Inside our own process nothing could stop
it: one expression (`10 ** 10 ** 9`, a comparison of nested lists) is one call into C that holds the
interpreter's lock. docs/decisions/0010-chat-template-limits.md compares the options.

Deliberately does not know: messages, models, Jinja.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

_HEADER = struct.Struct(">Q")  # as in chat_worker, which is a script and can't be imported
_WORKER = Path(__file__).with_name("chat_worker.py")
_START_S = 60.0  # the machine may be busy loading a model
_COMPILE_S = 2.0  # a template may take at least this long to compile
# The only variables of our environment that the process gets, since others may hold secret keys:
# where its Python finds its libraries and Jinja, and the time zone of strftime_now.
_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "TZ")
_JSON_BYTES_PER_CHAR = 12  # the worst case is an escaped surrogate pair


class TemplateTimeoutError(ValueError):
    """A template exceeded its time limit. Another try may be faster."""


class TemplateProcess:
    """One compiled template, in a process that is replaced after a limit killed it. Final.

    Safe to share between threads; they take turns. The child process ends with this object, with
    the parent process, or by its own alarm.

    Raises:
      ValueError: the template does not compile within the limits.
    """

    def __init__(self, source: str, *, timeout_s: float, max_chars: int, max_bytes: int) -> None:
        self._source = source
        self._timeout_s = timeout_s
        self._max_chars = max_chars
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._process = self._start()

    def render(self, variables: Mapping[str, object]) -> str:
        """Renders the template.

        Args:
          variables: the template's variables; they must be JSON values.

        Raises:
          TemplateTimeoutError: the render exceeded the time limit.
          ValueError: the template raised, failed, or exceeded another limit; the message says
              which.
        """
        try:
            request = json.dumps({"variables": variables, "max_chars": self._max_chars})
        except (TypeError, ValueError) as exc:
            raise ValueError(
                f"a chat template can only be given JSON values: {exc}; convert the value"
            ) from exc
        with self._lock:
            if self._process.poll() is not None:
                self._process = self._start()
            return self._ask(self._process, request, self._timeout_s)

    def close(self) -> None:
        """Ends the process. A later `render` starts a new one."""
        with self._lock:
            self._finalizer()

    def _start(self) -> subprocess.Popen[bytes]:
        compile_s = max(self._timeout_s, _COMPILE_S)
        limits = {"alarm_s": math.ceil(compile_s) + 1, "max_bytes": self._max_bytes}
        # -P: the script's directory stays off sys.path, where our modules would hide others.
        # In a session of its own, the child gets no keyboard interrupt: the parent handles that.
        process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER), json.dumps(limits)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
            cwd="/",
        )
        self._finalizer = weakref.finalize(self, _end, process)
        os.set_blocking(_pipe(process.stdin).fileno(), False)  # `_send` waits with a deadline
        try:
            ready = _receive(process, time.monotonic() + _START_S, 1000)
        except TimeoutError:
            ready = None
        if ready is None:
            self._finalizer()
            raise ValueError(
                f"the process that renders the chat template did not start (exit code "
                f"{process.returncode}): {sys.executable} must be a Python that has jinja2"
            )
        try:
            self._ask(process, json.dumps({"source": self._source}), compile_s)
        except ValueError:
            self._finalizer()  # a template that does not compile needs no process
            raise
        return process

    def _ask(self, process: subprocess.Popen[bytes], request: str, timeout_s: float) -> str:
        """Sends one request and waits for its reply; ends the process if no reply comes."""
        body = request.encode()
        deadline = time.monotonic() + timeout_s
        max_bytes = self._max_chars * _JSON_BYTES_PER_CHAR + 10_000
        try:
            _send(process, _HEADER.pack(len(body)) + body, deadline)
            reply = _receive(process, deadline, max_bytes)
        except BrokenPipeError:
            reply = None  # the process has ended
        except TimeoutError:
            self._finalizer()
            raise TemplateTimeoutError(
                f"the chat template took longer than {timeout_s:g} s, its limit: send fewer "
                "messages, or give the model another chat template"
            ) from None
        except BaseException:  # an interrupt: a late reply would answer the next request
            self._finalizer()
            raise
        if reply is None:
            self._finalizer()
            raise ValueError(
                f"the chat template ended its process (exit code {process.returncode}): it is "
                "broken or hostile; give the model another chat template"
            )
        if "error" in reply:
            raise ValueError(self._explain(reply["error"], reply["detail"]))
        text: str = reply["text"]
        return text

    def _explain(self, error: str, detail: str) -> str:
        """Says what went wrong and what to do. A message raised by the template is not changed."""
        messages = {
            "raised": detail,
            "failed": f"the chat template failed on these messages: {detail}",
            "syntax": f"the chat template is not valid Jinja: {detail}; give another one",
            "memory": f"the chat template needed more than {self._max_bytes / 1e6:.0f} MB of "
            "memory, its limit: send fewer messages, or give the model another chat template",
            "output": f"the chat template rendered more than {self._max_chars} characters, its "
            "limit: send fewer messages, or give the model another chat template",
        }
        return messages[error]


def _send(process: subprocess.Popen[bytes], data: bytes, deadline: float) -> None:
    """Writes to the process. Raises TimeoutError if it did not read everything in time."""
    fd, left = _pipe(process.stdin).fileno(), memoryview(data)
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    while left:
        left_ms = (deadline - time.monotonic()) * 1000
        if left_ms <= 0 or not poll.poll(left_ms):
            raise TimeoutError
        left = left[os.write(fd, left) :]


def _receive(
    process: subprocess.Popen[bytes], deadline: float, max_bytes: int
) -> dict[str, Any] | None:
    """Reads one reply; None if the process ended or sent too much.

    Raises:
      TimeoutError: the reply did not come in time.
    """
    fd = _pipe(process.stdout).fileno()
    poll = select.poll()  # select() can't take a file descriptor above 1023
    poll.register(fd, select.POLLIN)
    data, size = bytearray(), _HEADER.size
    while len(data) < size:
        left_ms = (deadline - time.monotonic()) * 1000
        if left_ms <= 0 or not poll.poll(left_ms):
            raise TimeoutError
        chunk = os.read(fd, 1 << 20)
        if not chunk:
            return None
        data += chunk
        if len(data) >= _HEADER.size:
            size = _HEADER.size + _HEADER.unpack_from(data)[0]
            if size > max_bytes:
                return None
    reply: dict[str, Any] = json.loads(data[_HEADER.size :])
    return reply


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # the process was started with both pipes
    return stream


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills and reaps a process, and closes its pipes."""
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(BrokenPipeError):  # buffered data that nobody reads
            _pipe(stream).close()
