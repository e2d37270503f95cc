"""Definitions in a user's code: runs FILE.py:NAME or package.module:NAME, and calls the function.

Deliberately does not know the framework, nor how a Python file is run: user_file.py.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from flaxen.definitions.definition import Definition
from flaxen.definitions.user_file import import_user_module, run_user_file, user_errors
from flaxen.weights.reference import Reference, parse_reference

_NEAR_PLACE = re.compile(r"(?P<file>.+\.py)(:.*)?")
_WANTED = "write a function without arguments that returns a flaxen.Definition"


def find_definition(model: str) -> Definition | None:
    """Makes the definition that MODEL names; None if it is the name of a model in files.

    Args:
      model: as the user gave it.

    Raises:
      ValueError: the file, module or function does not exist, the function returns something else,
          or the user's code raised an error.
    """
    reference = parse_reference(model)
    if reference is None:
        refuse_a_file_without_name(model)
        return None
    return make_definition(reference)


def make_definition(reference: Reference) -> Definition:
    """Runs the code that a reference names, and calls the function.

    Raises:
      ValueError: as in `find_definition`.
    """
    if reference.module is not None:
        with import_user_module(reference.module, reference.root()) as module:
            path = Path(module.__file__ or reference.module)
            definition = _made(module, path, reference.name)
    else:
        assert reference.file is not None
        path = reference.file
        if not path.is_file():
            raise ValueError(f"{path} does not exist: MODEL as FILE.py:NAME names a file to run")
        with run_user_file(path) as module:
            definition = _made(module, path, reference.name)
    return replace(definition, reference=replace(reference, file=path.absolute()))


def _made(module: Any, path: Path, name: str) -> Definition:
    make = getattr(module, name, None)
    if isinstance(make, Definition):
        return make
    if not callable(make):
        raise ValueError(f"{path} has no function {name}: {_advice(path, name)}")
    if isinstance(make, type):
        raise ValueError(
            f"{name} in {path} is a class, and NAME is a function that makes a definition of it: "
            f"{_WANTED}, as in `return flaxen.Definition(model=model, params=params, ...)`, with "
            "model and params from flaxen.from_nnx or another bridge"
        )
    needed = [
        each.name
        for each in inspect.signature(make).parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if needed:
        raise ValueError(
            f"{name} in {path} has arguments without a default ({', '.join(needed)}), which nobody "
            f"can give it here: {_WANTED}"
        )
    with user_errors(path):
        definition = make()
    if not isinstance(definition, Definition):
        raise ValueError(
            f"{name} in {path} returned a {type(definition).__name__}: it must return a "
            "flaxen.Definition(model=..., params=..., tokenizer=...)"
        )
    return definition


def refuse_a_file_without_name(model: str) -> None:
    """Refuses a Python file without the name of a function in it.

    Raises:
      ValueError: MODEL is such a file; the message has the names in it.
    """
    near = _NEAR_PLACE.fullmatch(model)
    path = Path(os.path.expanduser(near["file"])) if near else None
    if path is None or not path.is_file():
        return
    raise ValueError(
        f"{model} is a file of Python, and MODEL as FILE.py:NAME also names the function in it "
        f"that makes the definition: {_advice(path, None)}"
    )


def _advice(path: Path, wanted: str | None) -> str:
    """Suggests a name if it is missing, or if the file does not have it."""
    names = likely_names(path)
    if not names:
        return _WANTED
    near = difflib.get_close_matches(wanted or "", names, n=1)
    return "give " + " or ".join(f"{path}:{name}" for name in near or names)


def likely_names(path: Path) -> list[str]:
    """The functions and variables of a file that may be definitions, found without running it.

    These are functions without required arguments whose return value names `Definition`, and
    variables to which one is assigned; if there are none, all functions without required arguments.
    """
    try:
        body = ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError):
        return []
    functions = [each for each in body if isinstance(each, ast.FunctionDef)]
    callable_ones = [
        each.name
        for each in functions
        if len(each.args.posonlyargs + each.args.args) == len(each.args.defaults)
        and all(each.args.kw_defaults)
        and not each.name.startswith("_")
    ]
    found = [each.name for each in functions if each.name in callable_ones and _makes_one(each)]
    for each in body:
        if isinstance(each, ast.Assign) and _makes_one(each.value):
            found += [target.id for target in each.targets if isinstance(target, ast.Name)]
    return found or callable_ones


def _makes_one(node: ast.AST) -> bool:
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    names |= {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
    texts = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
    return not {"Definition", "flaxen.Definition"}.isdisjoint(names | texts)
