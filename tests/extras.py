"""Modules of an extra: a test that needs one is skipped without it, but fails in CI."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import pytest

IS_CI = os.environ.get("CI") == "true"  # there the extras dev and torch are installed


def extra(name: str) -> ModuleType:
    """Imports a module. Where it is missing, the test is skipped; in CI it fails."""
    if IS_CI:
        return importlib.import_module(name)
    module: ModuleType = pytest.importorskip(name)
    return module
