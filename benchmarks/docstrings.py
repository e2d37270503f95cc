"""A corpus that is already installed: the docstrings of a Python package, SciPy unless told.

JAX depends on SciPy, so it is wherever flaxen is. Nothing is imported: the sources are parsed.
Deliberately does not know what is trained on them.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

PACKAGE = "scipy"
_SHORTEST = 40  # characters; shorter docstrings carry almost no information


class Docstring(NamedTuple):
    """One docstring of a module, class or function."""

    part: str  # the subpackage that it is in, as "stats"
    name: str  # of what it documents; "" of a module
    text: str


def read_docstrings(package: str = PACKAGE) -> list[Docstring]:
    """All docstrings of an installed package, each text once, in the order of their hashes.

    Raises:
      ModuleNotFoundError: the package is not installed.
    """
    root = Path(str(metadata.distribution(package).locate_file(package)))
    found: dict[str, Docstring] = {}
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root).parts
        if "tests" in inside:
            continue
        for name, text in _docstrings(ast.parse(path.read_text(encoding="utf-8"))):
            if len(text) >= _SHORTEST:
                found.setdefault(text, Docstring(inside[0], name, text))
    return sorted(found.values(), key=lambda each: hashlib.sha256(each.text.encode()).digest())


def describe(package: str = PACKAGE) -> str:
    """A description of the corpus, with the package's version."""
    return f"docstrings of {package} {metadata.version(package)}"


def _docstrings(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield ("" if isinstance(node, ast.Module) else node.name), text
