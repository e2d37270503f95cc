"""Prints those of its arguments, flags of XLA, that the installed JAX knows.

A process with a flag that its XLA does not know ends at once, and flags come and go with versions.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable


def known(flags: Iterable[str]) -> list[str]:
    """The flags with which JAX starts, each tried in a process of its own."""
    return [flag for flag in flags if _starts_with(flag)]


def _starts_with(flag: str) -> bool:
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    environment = os.environ | {"XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0


if __name__ == "__main__":
    print(*known(sys.argv[1:]))
