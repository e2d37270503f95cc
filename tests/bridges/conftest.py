"""Leaves out the tests of what is not installed, and says so."""

from __future__ import annotations

from flaxen.weights.torch_checkpoint import is_installed

collect_ignore = [] if is_installed() else ["test_torch.py"]


def pytest_report_header() -> str:
    return (
        "" if is_installed() else "flaxen[torch] is not installed: no tests/bridges/test_torch.py"
    )
