"""What every test run is held to: strict JAX numerics, and Hypothesis without time limits."""

from __future__ import annotations

import gc
import os

from tests.compile_cache import share_compile_cache

# Before anything imports JAX: a silent broadcast between ranks hides shape errors. The processes
# that the end-to-end tests start inherit it.
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
# The tests of a mesh lay it over these; all others compute on the first.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
# Where libtpu is installed to compile with it (tests/tpu), JAX would else look for a TPU.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
share_compile_cache()

import pytest  # noqa: E402 (the environment comes first)
from hypothesis import settings  # noqa: E402

# No deadline: the machine that runs the tests is shared, and a compile may fall into any example.
settings.register_profile("flaxen", deadline=None, print_blob=True)
settings.load_profile("flaxen")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files with slow tests first.

    With `--no-loadscope-reorder` pytest-xdist hands files out in this order. A long file that came
    last would keep one process busy alone.
    """
    slow_files = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: item.path not in slow_files)


def pytest_collection_finish() -> None:
    """What was imported and collected stays: the garbage collector need not visit it again."""
    gc.freeze()


class FailuresAtOnce:
    """Prints each failure when it happens: a run that is ended at its limit has no summary."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.write_line(f"\n{report.nodeid} failed ({report.when}):\n{report.longreprtext}")


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        config.pluginmanager.register(FailuresAtOnce(config))
