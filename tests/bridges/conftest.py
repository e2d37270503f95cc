"""Leaves out the tests of PyTorch where it is not installed, and says so; in CI they fail."""

from __future__ import annotations

from flaxen.definitions.torch.checkpoint import is_installed
from tests.extras import IS_CI

_LEFT_OUT = [] if is_installed() or IS_CI else ["test_torch*.py", "test_three_ways_example.py"]
collect_ignore_glob = _LEFT_OUT


def pytest_report_header() -> str:
    if not _LEFT_OUT:
        return ""
    return f"flaxen[torch] is not installed: no {' and '.join(_LEFT_OUT)} in tests/bridges"
