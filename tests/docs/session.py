"""Runs the blocks of one page in order, as a reader would: in one directory, with one server.

Python blocks share one interpreter. A command that starts a server is left running until the next
one, or the end of the page. Port 8000 of the page is a free port here.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.docs.blocks import SHOWN, Block, find_commands

ROOT = Path(__file__).parents[2]
_TIMEOUT_S = 240.0
_SERVER = re.compile(r"\bflaxen serve\b")
_PORT = "8000"
_END = "the block has ended"
_INTERPRETER = f"""
import sys
space = {{"__name__": "__main__"}}
for line in sys.stdin:
    path = line.strip()
    exec(compile(open(path).read(), path, "exec"), space)
    print(flush=True)  # the block's last line may have no end
    print({_END!r}, flush=True)
"""


class Session:
    """What a page's blocks share. Final."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = str(probe.getsockname()[1])
        self._environment = {**environment, "HOME": str(directory / "home")}
        (directory / "home").mkdir()
        (directory / "examples").symlink_to(ROOT / "examples")  # as in a checkout
        self._server: subprocess.Popen[bytes] | None = None
        self._python: subprocess.Popen[str] | None = None
        self._num_scripts = 0

    def run(self, block: Block) -> None:
        """Runs a block, or writes its file; raises AssertionError where it fails."""
        if block.not_run is not None or (block.language in SHOWN and block.file is None):
            return
        code = block.code.replace(_PORT, self._port)
        if block.file is not None:
            path = self._directory / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(code)
        elif block.language == "python":
            self._run_python(code)
        elif block.language == "console":
            for command in find_commands(code):
                self._run_command(command)
        else:
            raise AssertionError(f"line {block.line}: nobody knows how to run {block.language}")

    def _run_command(self, command: str) -> None:
        if _SERVER.search(command):
            self._serve(command)
            return
        done = subprocess.run(
            ["bash", "-c", f"set -euo pipefail\n{command}"],
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"

    def _serve(self, command: str) -> None:
        self._end_server()
        log_file = self._directory / "server.log"
        given = "" if "--port" in command else f" --port {self._port}"
        with log_file.open("wb") as log:
            self._server = subprocess.Popen(
                shlex.split(command + given), cwd=self._directory, env=self._environment, stderr=log
            )
        deadline_s = time.monotonic() + _TIMEOUT_S
        while "is served on" not in log_file.read_text():
            assert self._server.poll() is None, f"$ {command}\n{log_file.read_text()}"
            assert time.monotonic() < deadline_s, f"$ {command} is not ready:\n" + (
                log_file.read_text()
            )
            time.sleep(0.05)

    def _run_python(self, code: str) -> None:
        errors = self._directory / "python.log"
        if self._python is None:
            with errors.open("wb") as log:
                self._python = subprocess.Popen(
                    [sys.executable, "-c", _INTERPRETER],
                    cwd=self._directory,
                    env=self._environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
        self._num_scripts += 1
        script = self._directory / f"block_{self._num_scripts}.py"
        script.write_text(code)
        assert self._python.stdin is not None
        assert self._python.stdout is not None
        self._python.stdin.write(f"{script}\n")
        self._python.stdin.flush()
        said = []
        for line in self._python.stdout:
            if line.strip() == _END:
                return
            said.append(line)
        raise AssertionError(f"{code}\n{''.join(said)}{errors.read_text()}")

    def close(self) -> None:
        """Ends what still runs."""
        self._end_server()
        if self._python is not None:
            self._python.kill()
            self._python.wait()
            for stream in (self._python.stdin, self._python.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()

    def _end_server(self) -> None:
        if self._server is None:
            return
        self._server.send_signal(signal.SIGINT)
        try:
            assert self._server.wait(60) == 0
        finally:
            self._server.kill()
            self._server.wait()
            self._server = None


@contextlib.contextmanager
def open_session(directory: Path, python_path: Path, more: Mapping[str, str]) -> Iterator[Session]:
    """Yields a session in an empty directory, where `flaxen` is this environment's command.

    Args:
      directory: where the page's files go.
      python_path: of the stand-in for the packaged model.
      more: variables of the environment.
    """
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": os.pathsep.join((str(scripts), os.environ["PATH"])),
        "PYTHONPATH": os.pathsep.join((str(python_path), str(ROOT))),
        **more,
    }
    session = Session(directory, environment)
    try:
        yield session
    finally:
        session.close()
