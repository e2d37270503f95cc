"""A definition's directory: what is written is read back, and its code is run only if it may be."""

from __future__ import annotations

import dataclasses
import json
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxen
from flaxen.definitions.definition import Definition
from flaxen.definitions.files import open_definition, save_definition
from flaxen.definitions.opening import open_model
from flaxen.definitions.user_definition import find_definition
from flaxen.hub.weight_files import DESCRIPTION
from flaxen.kernels.backend import Backend
from tests.cli.tiny_definition import write_definition

BFLOAT16 = jnp.dtype("bfloat16")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Definition:
    found = find_definition(write_definition(tmp_path_factory.mktemp("code")))
    assert found is not None
    return found


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "state" / "key"


@pytest.fixture
def saved(made: Definition, tmp_path: Path, keys: Path) -> Path:
    """A directory whose parameters are not those that the code makes."""
    changed = dataclasses.replace(made, params=jax.tree.map(lambda leaf: leaf + 1, made.params))
    save_definition(tmp_path / "saved", changed, keys=keys)
    return tmp_path / "saved"


def assert_equal(found: Any, expected: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_what_is_written_is_read_back(made: Definition, saved: Path, keys: Path) -> None:
    assert {path.name for path in saved.iterdir()} >= {
        DESCRIPTION, "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert not list(saved.rglob("*.py"))
    found = open_definition(saved, keys=keys)
    assert_equal(found.params, jax.tree.map(lambda leaf: leaf + 1, made.params))
    assert found.name == "tiny"
    assert found.make_tokenizer().encode("a cat") == made.make_tokenizer().encode("a cat")
    assert keys.stat().st_mode & 0o777 == 0o600


def test_a_key_is_made_once(made: Definition, tmp_path: Path, keys: Path) -> None:
    for name in ("one", "two"):
        save_definition(tmp_path / name, made, keys=keys)
    for name in ("one", "two"):
        open_definition(tmp_path / name, keys=keys)
    assert [path.name for path in keys.parent.iterdir()] == ["key"]


def test_a_full_disk_is_said_and_leaves_nothing(made: Definition, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # as on a full disk
    try:
        with pytest.raises(OSError, match=r"model\.safetensors can't be written: .*File too large"):
            save_definition(tmp_path / "m", made, keys=tmp_path / "key")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_dtypes_and_other_collections(made: Definition, tmp_path: Path) -> None:
    stats = {"mean": np.full(3, 1 / 3, np.float32), "count": np.array(7, np.int32)}
    model = dataclasses.replace(made.model, trained="params")
    params = {"params": made.params, "batch_stats": stats}
    collections = dataclasses.replace(made, model=model, params=params)
    save_definition(tmp_path / "m", collections, dtype=BFLOAT16, keys=tmp_path / "key")
    loaded = open_definition(tmp_path / "m", collections)
    assert loaded.dtype == BFLOAT16
    for name, leaf in stats.items():
        np.testing.assert_array_equal(loaded.params["batch_stats"][name], leaf)
        assert loaded.params["batch_stats"][name].dtype == leaf.dtype
    assert_equal(
        loaded.params["params"], jax.tree.map(lambda leaf: leaf.astype(BFLOAT16), made.params)
    )


def test_it_opens_by_its_name_everywhere(made: Definition, tmp_path: Path) -> None:
    """With this user's own key, as a user has it."""
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    directory = tmp_path / "run" / "model"
    save_definition(directory, made)
    for name in (directory, tmp_path / "run"):
        path, source = open_model(str(name), backend=Backend.REFERENCE)
        assert path == directory
        assert isinstance(source, Definition)
        assert_equal(source.params, made.params)
        _, params = flaxen.load(name)
        assert_equal(params, made.params)
        assert flaxen.load_tokenizer(name).encode("a") == made.make_tokenizer().encode("a")


def test_a_tokenizer_in_memory_is_written(made: Definition, tmp_path: Path) -> None:
    tokenizer = made.make_tokenizer()
    save_definition(tmp_path / "m", dataclasses.replace(made, tokenizer=tokenizer))
    again = open_definition(tmp_path / "m", made).make_tokenizer()
    assert again.encode("a cat") == tokenizer.encode("a cat")
    assert again.eos_token_ids == tokenizer.eos_token_ids


def _code_of(directory: Path) -> dict[str, Any]:
    code: dict[str, Any] = json.loads((directory / DESCRIPTION).read_text())["code"]
    return code


def _move_code(directory: Path, **changed: Any) -> None:
    """Writes another code's name into a directory."""
    fields = json.loads((directory / DESCRIPTION).read_text())
    fields["code"] |= changed
    (directory / DESCRIPTION).write_text(json.dumps(fields))


def test_a_strangers_directory_runs_no_code(saved: Path, keys: Path, tmp_path: Path) -> None:
    """Neither with another key, nor with a name that was changed: the code would leave a file."""
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\n")
    message = r"not signed by you on this machine.* if you trust it, add --definition"
    with pytest.raises(ValueError, match=message):
        open_definition(saved, keys=tmp_path / "another_key")
    _move_code(saved, file=str(evil), sha256="0" * 64)
    with pytest.raises(ValueError, match=message):
        open_definition(saved, keys=keys)
    _move_code(saved, signature=None)
    with pytest.raises(ValueError, match=message):
        open_definition(saved, keys=keys)
    assert not (tmp_path / "was_run").exists()


def _own_copy(made: Definition, tmp_path: Path, keys: Path) -> tuple[Path, Path]:
    """A file of code, and a directory that was written with it."""
    assert made.reference is not None
    assert made.reference.file is not None
    code = tmp_path / "own"
    shutil.copytree(made.reference.file.parent, code)
    own = find_definition(f"{code}/tiny.py:make")
    assert own is not None
    save_definition(tmp_path / "m", own, keys=keys)
    return code / "tiny.py", tmp_path / "m"


def _remove(file: Path) -> None:
    file.unlink()


def _change(file: Path) -> None:
    file.write_text(file.read_text() + "# another\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_remove, r"tiny.py does not exist any more: give its new place by --definition FILE.py"),
        (_change, r"has changed since .* \(its SHA-256 was [0-9a-f]{12} and is [0-9a-f]{12}\)"),
    ],
)
def test_code_that_moved_or_changed_is_asked_for(
    made: Definition,
    tmp_path: Path,
    keys: Path,
    change: Callable[[Path], None],
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file, directory = _own_copy(made, tmp_path, keys)
    change(file)
    with pytest.raises(ValueError, match=message):
        open_definition(directory, keys=keys)
    given = f"{file}:make" if file.exists() else str(made.reference)
    assert_equal(open_definition(directory, given, keys=keys).params, made.params)
    warned = "is not the source with which" in caplog.text
    assert warned == file.exists()


def test_a_definition_of_python_asks_for_its_code(made: Definition, tmp_path: Path) -> None:
    save_definition(tmp_path / "m", dataclasses.replace(made, reference=None))
    with pytest.raises(ValueError, match=r"made in Python, so it names no code: give --definition"):
        open_definition(tmp_path / "m")
    assert_equal(open_definition(tmp_path / "m", str(made.reference)).params, made.params)
    with pytest.raises(ValueError, match="is no FILE\\.py:NAME or package\\.module:NAME"):
        open_definition(tmp_path / "m", "no code")


def test_a_module_is_found_by_its_name(
    made: Definition, tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert made.reference is not None
    assert made.reference.file is not None
    package = tmp_path / "package_of_tiny"
    shutil.copytree(made.reference.file.parent, package)
    (package / "__init__.py").write_text("")
    monkeypatch.chdir(tmp_path)
    own = find_definition("package_of_tiny.tiny:make")
    assert own is not None
    save_definition(tmp_path / "m", own, keys=keys)
    assert _code_of(tmp_path / "m")["module"] == "package_of_tiny.tiny"
    assert_equal(open_definition(tmp_path / "m", keys=keys).params, made.params)
    assert find_definition("gpt2:Q8_0") is None


def test_a_recorded_module_comes_from_its_place_alone(
    made: Definition, tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From any working directory, even one with a module of the same name, which is not run.

    The modules are in directories without __init__.py.
    """
    assert made.reference is not None
    assert made.reference.file is not None
    shutil.copytree(made.reference.file.parent, tmp_path / "home" / "tiny_of_home")
    stranger = tmp_path / "stranger"
    (stranger / "tiny_of_home").mkdir(parents=True)
    (stranger / "tiny_of_home" / "__init__.py").write_text("raise AssertionError('was run')\n")
    monkeypatch.chdir(tmp_path / "home")
    own = find_definition("tiny_of_home.tiny:make")
    assert own is not None
    save_definition(tmp_path / "m", own, keys=keys)
    monkeypatch.chdir(stranger)
    for name in [each for each in sys.modules if each.startswith("tiny_of_home")]:
        monkeypatch.delitem(sys.modules, name)  # as in a new process
    assert_equal(open_definition(tmp_path / "m", keys=keys).params, made.params)
    for name in [each for each in sys.modules if each.startswith("tiny_of_home")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(stranger)  # as in a notebook there
    message = "would import .*stranger.* in its place, so nothing was run: .* --definition FILE.py"
    with pytest.raises(ValueError, match=message):
        open_definition(tmp_path / "m", keys=keys)


def changed(tree: Any, change: str) -> Any:
    if change == "lacks":
        return {name: leaf for name, leaf in tree.items() if name != "places"}
    if change == "more":
        return {**tree, "other": tree["places"]}
    return {**tree, "places": tree["places"][:3]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("lacks", r"the file lacks \['places'\]. Give the definition that was trained"),
        ("more", r"the definition has no \['other'\]"),
        ("shape", r"\['places'\] has the shape \[3, 32\] .* in the definition \[48, 32\]"),
    ],
)
def test_parameters_of_another_definition_are_refused(
    made: Definition, tmp_path: Path, change: str, message: str
) -> None:
    params = changed(made.params, change)
    save_definition(tmp_path / "m", dataclasses.replace(made, params=params))
    with pytest.raises(ValueError, match=message):
        open_definition(tmp_path / "m", made)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.safetensors", None, "model.safetensors does not exist: .* is not complete"),
        ("model.safetensors", "no safetensors", "can't be read"),
        (DESCRIPTION, '{"format": "flaxen-definition", "version": 9}', "of version 9, and this"),
        (DESCRIPTION, '{"format": "flaxen-definition", "version": 1}', "is damaged: write"),
    ],
)
def test_damaged_files_are_refused(
    made: Definition, saved: Path, file: str, content: str | None, message: str
) -> None:
    (saved / file).unlink()
    if content is not None:
        (saved / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        open_definition(saved, made)
