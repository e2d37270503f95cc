"""What every test run is held to: strict JAX numerics, and Hypothesis without time limits.

What a run compiles, it keeps for itself: most of the tests' time is compiling the same again.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

# Before anything imports JAX: a silent broadcast between ranks hides shape errors. The processes
# that the end-to-end tests start inherit it.
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")

# Of each process of pytest its own: JAX warns of entries that are read while another writes them.
_CACHE = tempfile.mkdtemp(prefix="flaxen-tests-")
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

from hypothesis import settings  # noqa: E402 (the environment comes first)

# No deadline: the machine that runs the tests is shared, and a compile may fall into any example.
settings.register_profile("flaxen", deadline=None, print_blob=True)
settings.load_profile("flaxen")
