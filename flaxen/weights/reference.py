"""The name of a definition in a user's code: FILE.py:NAME, or package.module:NAME.

Deliberately does not run the code.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

_FILE = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)")
_MODULE = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Where a definition's code is."""

    name: str  # of the function or variable
    module: str | None = None  # None: the file is run by its path
    file: Path | None = None  # known of a module once it was imported

    def __str__(self) -> str:
        """The reference as MODEL of a command."""
        return f"{self.module or self.file}:{self.name}"

    def root(self) -> Path | None:
        """The directory from which a module is imported; None as long as its file is not known."""
        if self.module is None or self.file is None:
            return None
        depth = self.module.count(".") + (self.file.name == "__init__.py")
        return self.file.parents[depth]


def parse_reference(model: str) -> Reference | None:
    """Reads MODEL as a reference; None if it is the name of a model in files.

    package.module:NAME is one only if there is such a module in the working directory, or such a
    package is installed: `gpt2:Q8_0` is a model of the hub.
    """
    if found := _FILE.fullmatch(model):
        return Reference(file=Path(os.path.expanduser(found["file"])), name=found["name"])
    found = _MODULE.fullmatch(model)
    if found is None or not _is_module(found["module"]):
        return None
    return Reference(module=found["module"], name=found["name"])


def _is_module(module: str) -> bool:
    path = Path(*module.split("."))  # its directories need no __init__.py
    package = path.parts[0]
    files = (path.with_suffix(".py"), path / "__init__.py", Path(package, "__init__.py"))
    if any(file.is_file() for file in files) or package in sys.modules:
        return True
    return importlib.util.find_spec(package) is not None  # does not import a top-level package


def source_digest(path: Path) -> str:
    """The SHA-256 of a file of code, as hexadecimal text."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
