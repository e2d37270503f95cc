"""MODEL..., with the names that each was given."""

from __future__ import annotations

from pathlib import Path

import pytest

from flaxen.cli.serve.named_models import NamedModel, name_models


def test_names_stand_before_their_model() -> None:
    models = name_models(["a", "chat,gpt-4=org/b:Q4_K_M", "c=./x=y"], [])
    assert models == [
        NamedModel(model="a", names=()),
        NamedModel(model="org/b:Q4_K_M", names=("chat", "gpt-4")),
        NamedModel(model="./x=y", names=("c",)),
    ]
    (one,) = name_models(["a"], ["x", "y"])
    assert (one.model, one.names) == ("a", ("x", "y"))


def test_a_file_with_such_a_name_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a=b.gguf"
    path.touch()
    assert name_models([str(path)], []) == [NamedModel(model=str(path), names=())]


@pytest.mark.parametrize(
    ("given", "served", "message"),
    [
        (["a", "b"], ["x"], "--served-model-name does not say which of 2 models it names: .*NAME="),
        (["x=a"], ["y"], "x=a and --served-model-name both name the model: give one of them"),
        (["=a"], [], "'=a' is not NAME=MODEL or NAME,ALIAS=MODEL: a part of it is empty"),
        (["x,=a"], [], "a part of it is empty"),
        (["x="], [], "a part of it is empty"),
    ],
)
def test_refused(given: list[str], served: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        name_models(given, served)
