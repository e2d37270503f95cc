"""The fixtures of the C++ kernels' tests, which these tests share."""

from __future__ import annotations

from tests.kernels.conftest import isa, num_threads

__all__ = ["isa", "num_threads"]
