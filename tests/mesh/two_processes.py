"""Two processes of one command, with two virtual devices each."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def two_processes(
    directory: Path, module: str, *arguments: str
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Starts `python -m MODULE ARGUMENTS` twice, which write to out0, err0, out1 and err1.

    Both get the options that join them. What still runs after the block is killed.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", module, *arguments]
    command += ["--coordinator-address", address, "--num-processes", "2", "--process-id"]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for index in range(2):
            paths = [directory / f"{name}{index}" for name in ("out", "err")]
            with paths[0].open("wb") as out, paths[1].open("wb") as err:
                argv = [*command, str(index)]
                started.append(subprocess.Popen(argv, env=environment, stdout=out, stderr=err))
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()
