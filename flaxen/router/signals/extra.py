"""Imports what the extra `router` installs, or says how to install it."""

from __future__ import annotations

import importlib
from typing import Any


def load_extra(module: str, package: str, what: str) -> Any:
    """A module of the extra `router`.

    Args:
      module: its name.
      package: the package that has it.
      what: what of a configuration needs it, in the plural.

    Raises:
      ValueError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{what} need the package {package}, which is not installed: "
            "pip install 'flaxen[router]'"
        ) from error
