"""Leaves out the tests of what is not installed, and says so."""

from __future__ import annotations

from flaxen.weights.torch_checkpoint import is_installed

_TORCH = [
    "test_torch.py",
    "test_torch_adapter_files.py",
    "test_torch_dropout.py",
    "test_three_ways_example.py",
]
collect_ignore = [] if is_installed() else _TORCH


def pytest_report_header() -> str:
    return (
        ""
        if is_installed()
        else f"flaxen[torch] is not installed: no {', '.join(_TORCH)} in tests/bridges"
    )
