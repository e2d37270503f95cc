"""The base model that an adapter names: found, or refused with the command that helps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flaxen.hub.places import Places
from flaxen.weights.adapters.base import base_reference, find_base, highest_rank, is_adapter


def adapter(directory: Path, **fields: Any) -> Path:
    directory.mkdir(exist_ok=True)
    text = json.dumps({"peft_type": "LORA", "r": 4, **fields})
    (directory / "adapter_config.json").write_text(text)
    return directory


def test_a_base_in_files_is_found_from_any_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    reference = base_reference("base")
    assert reference == str(tmp_path / "base")
    monkeypatch.chdir("/")
    assert find_base(adapter(tmp_path / "a", base_model_name_or_path=reference)) == reference


def test_what_is_no_path_is_named_as_it_was_called(tmp_path: Path) -> None:
    assert base_reference("org/name") == "org/name"
    (tmp_path / "m.py").touch()
    assert base_reference(f"{tmp_path}/./m.py:make") == f"{tmp_path}/m.py:make"
    assert base_reference("/nowhere/m.py:make") == "/nowhere/m.py:make"
    assert base_reference("flaxen.llm:make") == "flaxen.llm:make"


def test_a_base_that_is_not_found(tmp_path: Path) -> None:
    lost = adapter(tmp_path / "a", base_model_name_or_path="/nowhere/model.gguf")
    message = (
        r"/a is a LoRA adapter of '/nowhere/model.gguf', which is not found here: there is no "
        r"file /nowhere/model.gguf.* Or give the base model as MODEL, and the adapter by --adapter "
    )
    with pytest.raises(ValueError, match=message):
        find_base(lost)
    with pytest.raises(
        ValueError, match=r"not found here: org/x is not on this machine, .*not asked"
    ):
        find_base(adapter(tmp_path / "b", base_model_name_or_path="org/x"), Places(offline=True))


@pytest.mark.parametrize("base", [None, "", 7])
def test_an_adapter_without_a_base(tmp_path: Path, base: object) -> None:
    with pytest.raises(ValueError, match=r"names no base model \(base_model_name_or_path is"):
        find_base(adapter(tmp_path / "a", base_model_name_or_path=base))


def test_code_is_not_run_because_an_adapter_names_it(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("raise SystemExit('this ran')")
    for named in (f"{tmp_path}/m.py:make", "flaxen.llm:make"):
        message = rf"code is not run because an adapter names it: give {named} as MODEL, and the"
        with pytest.raises(ValueError, match=message):
            find_base(adapter(tmp_path / "a", base_model_name_or_path=named))


def test_a_model_beside_an_adapters_files_is_a_model(tmp_path: Path) -> None:
    directory = adapter(tmp_path / "a")
    assert is_adapter(directory)
    assert not is_adapter(tmp_path)
    (directory / "config.json").touch()
    assert not is_adapter(directory)


def test_the_highest_rank(tmp_path: Path) -> None:
    assert highest_rank(adapter(tmp_path / "a")) == 4
    assert highest_rank(adapter(tmp_path / "a", rank_pattern={"q_proj": 32, "k_proj": 2})) == 32
    assert highest_rank(adapter(tmp_path / "a", r="x", rank_pattern=[9])) == 1
    with pytest.raises(ValueError, match=r"does not exist: .* is no PEFT adapter's directory"):
        highest_rank(tmp_path)
