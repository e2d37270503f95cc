"""Fixtures for tests of the C++ kernels: each instruction set, and several numbers of threads.

FLAXEN_TEST_LIBRARY is a library to test in place of the installed one: see test_emulated.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flaxen.kernels import cpu_library

_LIBRARY = os.environ.get("FLAXEN_TEST_LIBRARY")
if _LIBRARY is not None:
    cpu_library.start(path=Path(_LIBRARY))


# Without a library there are none, and pytest skips the tests that ask for one.
@pytest.fixture(params=cpu_library.supported_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The instruction set in use: each that the library and this machine have."""
    best = cpu_library.supported_isas()[0]
    cpu_library.start(isa=request.param)
    yield request.param
    cpu_library.start(isa=best)


@pytest.fixture(params=(1, 2, 3))
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """The number of threads that the kernels use."""
    before = cpu_library.num_threads()
    cpu_library.start(num_threads=request.param)
    yield request.param
    cpu_library.start(num_threads=before)
