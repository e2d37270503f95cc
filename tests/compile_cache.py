"""Where the tests keep what XLA compiles: one directory for every process of every run.

Most of the tests' time would else go to compiling the same functions again, in each worker of
pytest-xdist and in each server that a test starts. Deliberately does not import JAX: the
environment must be set before that.
"""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

_ROOT = Path(__file__).parent.parent / ".jax_cache"  # `make clean` removes it


def shared_directory() -> Path:
    """The directory for this machine's processor.

    JAX names an entry by a hash of the traced program, the compiler's options and the version of
    jaxlib. It does not include the processor, whose instructions the compiled code uses. Sources of
    flaxen need no part in the name: a changed function is another program, and a C++ kernel is
    found by its name when the program runs.
    """
    flags = [line for line in _cpu_info().splitlines() if line.startswith(("flags", "Features"))]
    processor = "\n".join([platform.machine(), *flags[:1]])
    return _ROOT / hashlib.sha256(processor.encode()).hexdigest()[:12]


def share_compile_cache() -> None:
    """Makes this process, and those that it starts, keep all that they compile in the directory."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(shared_directory())
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


def _cpu_info() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else platform.processor()
