"""FILE.py:NAME as Python runs it: neighbours, names of libraries, and errors of the user's own."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flaxen.cli.main import main
from flaxen.definitions.definition import Definition
from flaxen.definitions.user_definition import find_definition, likely_names

_MAKE = """
import flaxen
from flaxen.definitions.definition import Definition

def make():
    return Definition(model=None, params={}, tokenizer="none", name=NAME)
"""


def write(directory: Path, **files: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / f"{name}.py").write_text(text)


def found(place: str) -> Definition:
    definition = find_definition(place)
    assert definition is not None
    return definition


def test_a_neighbour_is_imported_and_the_path_is_as_before(tmp_path: Path) -> None:
    write(tmp_path, mini="from layers_of_mini import NAME" + _MAKE, layers_of_mini="NAME = 'near'")
    before = list(sys.path)
    assert found(f"{tmp_path}/mini.py:make").name == "near"
    assert sys.path == before


def test_a_directory_that_is_on_the_path_already_keeps_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, mini="NAME = 'n'" + _MAKE)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = list(sys.path)
    found(f"{tmp_path}/mini.py:make")
    assert sys.path == before


def test_a_neighbour_may_be_imported_by_the_function(tmp_path: Path) -> None:
    text = _MAKE.replace("    return", "    from late_of_mini import NAME\n    return")
    write(tmp_path, mini=text, late_of_mini="NAME = 'late'")
    assert found(f"{tmp_path}/mini.py:make").name == "late"


def test_each_directory_has_neighbours_of_its_own(tmp_path: Path) -> None:
    for name in ("one", "two"):
        text = "from parts_of_mini.names import NAME" + _MAKE
        write(tmp_path / name, mini=text)
        write(tmp_path / name / "parts_of_mini", __init__="", names=f"NAME = '{name}'")
    names = [found(f"{tmp_path}/{name}/mini.py:make").name for name in ("one", "two", "one")]
    assert names == ["one", "two", "one"]


@pytest.mark.parametrize("name", ["tokenizers", "json", "jax", "typer"])
def test_a_file_does_not_take_a_librarys_place(tmp_path: Path, name: str) -> None:
    library = __import__(name)
    write(tmp_path, **{name: f"import {name}\nNAME = {name}.__file__" + _MAKE})
    assert found(f"{tmp_path}/{name}.py:make").name == library.__file__
    assert sys.modules[name] is library


def test_a_dataclass_with_annotations_as_texts(tmp_path: Path) -> None:
    text = "from __future__ import annotations\nimport dataclasses\nNAME = 'n'\n" + _MAKE
    text += "\n@dataclasses.dataclass\nclass Config:\n    size: int = 3\n"
    write(tmp_path, mini=text)
    assert found(f"{tmp_path}/mini.py:make").name == "n"


def test_a_definition_that_is_there_already(tmp_path: Path) -> None:
    write(tmp_path, mini="NAME = 'n'" + _MAKE + "\nit = make()\n")
    assert dataclasses.is_dataclass(found(f"{tmp_path}/mini.py:it"))


_FAILS = {
    "a missing module": ("import no_such_module_here\n", "Install no_such_module_here in"),
    "an error": ("def make():\n    return helper()\ndef helper():\n    return 1 / 0\n", "Correct"),
    "syntax": ("def make(:\n", "Correct it and try again"),
    "the process's end": ("raise SystemExit(3)\n", 'under if __name__ == "__main__"'),
    "an error in JAX": (
        "import jax\ndef make():\n    return jax.jit(lambda x: x @ x)(jax.numpy.ones((2, 3)))\n",
        "Correct it and try again",
    ),
}


@pytest.mark.parametrize("kind", _FAILS)
def test_an_error_has_the_users_frames_alone(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text, advice = _FAILS[kind]
    write(tmp_path, mini=text)
    assert main(["generate", f"{tmp_path}/mini.py:make", "--prompt", "x"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}/mini.py could not be run:")
    assert advice in error.splitlines()[-1]
    assert len(error.splitlines()) < 16
    places = [line for line in error.splitlines() if line.strip().startswith("File ")]
    assert all(str(tmp_path) in line for line in places)
    assert "JAX has removed" not in error


def test_frames_of_the_import_itself_are_not_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their files are called "<frozen importlib...>", as if they lay in the working directory."""
    write(tmp_path, mini="from . import parts\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no known parent package") as caught:
        find_definition("mini.py:make")
    assert "frozen" not in str(caught.value)
    assert 'mini.py", line 1, in <module>' in str(caught.value)


def test_the_frames_of_an_error_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, mini=_FAILS["an error"][0])
    main(["generate", f"{tmp_path}/mini.py:make", "--prompt", "x"])
    error = capsys.readouterr().err
    assert "line 2, in make" in error
    assert "line 4, in helper" in error
    assert "ZeroDivisionError: division by zero" in error


def test_debug_shows_all_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, mini=_FAILS["an error"][0])
    arguments = ["generate", f"{tmp_path}/mini.py:make", "--prompt", "x"]
    assert main(["--debug", *arguments]) == 2
    assert "in find_definition" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("mini.py", r"also names the function .*: give .*mini.py:build or .*mini.py:ready$"),
        ("mini.py:", r"give .*mini.py:build or .*mini.py:ready$"),
        ("mini.py:a-b", r"give .*mini.py:build or .*mini.py:ready$"),
        ("mini.py:biuld", r"no function biuld: give .*mini.py:build$"),
        ("empty.py", "write a function without arguments that returns a flaxen.Definition"),
        ("plain.py", r"give .*plain.py:whole$"),
        (
            "mini.py:Network",
            "Network in .* is a class, and NAME is a function that makes a",
        ),
        ("mini.py:sized", r"sized in .* has arguments without a default \(size\)"),
    ],
)
def test_what_to_write_is_said(tmp_path: Path, place: str, message: str) -> None:
    text = "import flaxen\n" + _MAKE.replace("def make", "def build")
    text += "\ndef helper(): pass\ndef sized(size) -> flaxen.Definition: pass\nNAME = 'n'\n"
    text += "class Network: pass\n"
    text += "\nready = Definition(model=None, params={}, tokenizer='none')\n"
    write(tmp_path, mini=text, empty="x = 3\n", plain="def whole(): pass\ndef _own(): pass\n")
    with pytest.raises(ValueError, match=message):
        find_definition(f"{tmp_path}/{place}")


def test_names_are_found_by_annotation_too(tmp_path: Path) -> None:
    write(tmp_path, a="def make() -> 'flaxen.Definition':\n    return other()\ndef other(): ...\n")
    assert likely_names(tmp_path / "a.py") == ["make"]


def test_the_working_directory_does_not_come_before_libraries(tmp_path: Path) -> None:
    write(tmp_path, typer="raise SystemExit('not the library')", mini="x = 3\n")
    command = [sys.executable, "-m", "flaxen", "generate", "mini.py", "--prompt", "x"]
    done: Any = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert json.dumps(done.returncode) == "2"
    assert "mini.py is a file of Python" in done.stderr
