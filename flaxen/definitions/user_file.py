"""Runs a user's Python file, and reports its errors with the user's own frames.

The file can import modules of its directory, as with `python FILE.py`. But a library takes
precedence over such a module: a file called tokenizers.py must not replace what flaxen itself
imports. Deliberately does not know what the file defines.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import sysconfig
import traceback
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

_INSTALLED = ("site-packages", "dist-packages")
_LIBRARY = Path(sysconfig.get_paths()["stdlib"])
_FLAXEN = Path(__file__).parents[1]
_MARK = "__flaxen_neighbour_of__"


class UserFileError(ValueError):
    """The user's own code raised an error; its message has the user's own frames."""


@contextmanager
def run_user_file(path: Path) -> Iterator[ModuleType]:
    """Runs a file and yields its module. Within the context it can import modules of its directory.

    Args:
      path: an existing file.

    Raises:
      UserFileError: the file raised an error.
    """
    path = path.absolute()
    _forget_other_neighbours(path.parent)
    importlib.invalidate_caches()  # a module next to it may be new
    before = set(sys.modules)
    entry = str(path.parent)
    sys.path.append(entry)
    try:
        with user_errors(path):
            module = _run(path)
        yield module
    finally:
        if entry in sys.path:  # removes the last one: the directory may have been there before
            del sys.path[len(sys.path) - 1 - sys.path[::-1].index(entry)]
        _mark_neighbours(before, path.parent)


@contextmanager
def import_user_module(name: str, root: Path | None = None) -> Iterator[ModuleType]:
    """Imports a module by its name and yields it.

    Args:
      name: with dots, as in an import.
      root: the directory that its first name is in, and must come from; None is the working
        directory, or wherever Python finds it.

    Raises:
      UserFileError: there is no such module, or its code raised an error.
      ValueError: Python would import another module than that of root; nothing was run.
    """
    entry = os.getcwd() if root is None else str(root)
    importlib.invalidate_caches()
    sys.path.append(entry)
    try:
        if root is not None:
            _check_place(name, root)
        with user_errors(Path(entry, name.replace(".", os.sep)).with_suffix(".py")):
            module = importlib.import_module(name)
        yield module
    finally:
        sys.path.reverse()  # removes the last one: the directory may have been there before
        if entry in sys.path:
            sys.path.remove(entry)
        sys.path.reverse()


def _check_place(name: str, root: Path) -> None:
    """Refuses a module that is not found in root, without running any code."""
    top = name.partition(".")[0]
    spec = importlib.util.find_spec(top)  # does not import a top-level name
    if spec is None:
        return  # the import says so
    places = [*(spec.submodule_search_locations or ()), *filter(None, [spec.origin])]
    for place in places:
        if not Path(place).resolve().is_relative_to(root.resolve()):
            raise ValueError(
                f"{name} was in {root}, and Python would import {place} in its place, so nothing "
                "was run: start where Python does not find that, or name the code by its file, "
                "--definition FILE.py:NAME (in Python definition=)"
            )


def _run(path: Path) -> ModuleType:
    """Runs the file under a unique module name: sys.modules["torch"] is the library, never
    torch.py.
    """
    stem = re.sub(r"\W", "_", path.stem)
    name = f"flaxen_definition_{stem}_{zlib.crc32(str(path).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _forget_other_neighbours(directory: Path) -> None:
    """Removes modules that another file imported from its directory, if this directory has the same
    name.
    """
    roots = {
        name
        for name, module in list(sys.modules.items())
        if _own(module).get(_MARK, directory) != directory
        and ((directory / f"{name}.py").is_file() or (directory / name).is_dir())
    }
    for name in list(sys.modules):
        if name.partition(".")[0] in roots:
            del sys.modules[name]


def _mark_neighbours(before: set[str], directory: Path) -> None:
    """Marks modules with the directory for which they were imported."""
    for name in set(sys.modules) - before:
        own = _own(sys.modules[name])
        if own.get("__file__") and _is_users(own["__file__"], directory):
            own[_MARK] = directory


def _own(module: Any) -> dict[str, Any]:
    """A module's existing attributes: asking a lazy module for another one would load it."""
    found: dict[str, Any] = getattr(module, "__dict__", {})
    return found


@contextmanager
def user_errors(path: Path) -> Iterator[None]:
    """Converts an error of the user's code to advice in one line and the user's own frames.

    Args:
      path: the user's file; files in or below its directory are the user's too.

    Raises:
      UserFileError: the code raised an error, or tried to end the process.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        raise UserFileError(_told(error, path)) from error


def _told(error: BaseException, path: Path) -> str:
    directory = path.absolute().parent
    frames = traceback.StackSummary.from_list(
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if _is_users(frame.filename, directory)
    )
    last = traceback.TracebackException(type(error), error, None)
    last.__notes__ = None  # JAX's note is about frames that are not shown here
    text = "".join([*frames.format(), *last.format_exception_only()]).rstrip()
    return f"{path} could not be run:\n{text}\n{_advice(error, path)}"


def _is_users(filename: str, directory: Path) -> bool:
    if filename.startswith("<"):  # importlib, or executed text
        return False
    file = Path(filename).absolute()
    is_library = file.is_relative_to(_LIBRARY) or not set(_INSTALLED).isdisjoint(file.parts)
    return file.is_relative_to(directory) and not file.is_relative_to(_FLAXEN) and not is_library


def _advice(error: BaseException, path: Path) -> str:
    if isinstance(error, SystemExit):
        return (
            "The file ends the process as it is run: put what it does as a program under "
            'if __name__ == "__main__"'
        )
    if isinstance(error, ModuleNotFoundError) and error.name:
        root = error.name.partition(".")[0]
        return (
            f"Install {root} in the environment of flaxen ({sys.prefix}), or put {root}.py beside "
            f"{path.name}"
        )
    return "Correct it and try again; flaxen --debug shows the frames of others too"
