"""Runs on a mesh: what is given where, what is refused, and a run that moves to another mesh."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import flaxen
from flaxen.hub.places import Places
from flaxen.models.decoder import decoder
from flaxen.runs.opening import open_run
from flaxen.sharding.shape import MeshShape
from flaxen.training.full import initial_params
from flaxen.training.settings import make_config, take_mesh
from tests.bridges.words import byte_tokenizer
from tests.cli.train import tiny_training
from tests.engine.tiny import MODEL_CONFIG
from tests.mesh.training import MODEL, PARAMS
from tests.models.features import with_features

TEXTS = ["the cat sat on the mat", "the dog sat on the log", "a bird in the hand"] * 4
DEEP = decoder(with_features(MODEL_CONFIG, num_layers=4, windows=(None,) * 4))
DEEP_PARAMS = initial_params(DEEP, 0)
OPTIONS: dict[str, Any] = {
    "tokenizer": byte_tokenizer(),
    "method": "full",
    "learning_rate": 3e-3,
    "batch_size": 4,
    "sequence_length": 48,
    "schedule": {"name": "constant"},
    "backend": "reference",
}


def losses(result: flaxen.TrainResult) -> list[float]:
    return [each["loss"] for each in result.metrics]


def test_a_run_goes_on_on_another_mesh(tmp_path: Path) -> None:
    alone = flaxen.train(MODEL, PARAMS, TEXTS, num_steps=4, **OPTIONS)
    first = flaxen.train(
        MODEL, PARAMS, TEXTS, num_steps=2, mesh="fsdp=2,tensor=2", output_dir=tmp_path, **OPTIONS
    )
    last = flaxen.train(
        *(MODEL, PARAMS, TEXTS),
        num_steps=4,
        mesh={"data": 2},
        output_dir=tmp_path,
        resume=True,
        **OPTIONS,
    )
    np.testing.assert_allclose(losses(first) + losses(last), losses(alone), rtol=1e-5)
    for one, other in zip(jax.tree.leaves(last.params), jax.tree.leaves(alone.params), strict=True):
        assert len(one.sharding.device_set) == 1  # to compute with other arrays
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)


def test_a_run_goes_on_with_other_stages(tmp_path: Path) -> None:
    alone = flaxen.train(DEEP, DEEP_PARAMS, TEXTS, num_steps=3, **OPTIONS)
    for num_steps, mesh in enumerate(("pipeline=2", "data=2", "pipeline=4,tensor=2"), start=1):
        last = flaxen.train(
            *(DEEP, DEEP_PARAMS, TEXTS),
            num_steps=num_steps,
            mesh=mesh,
            output_dir=tmp_path,
            resume=True,
            **OPTIONS,
        )
        assert losses(last) == pytest.approx(losses(alone)[num_steps - 1 : num_steps], rel=1e-5)
    for one, other in zip(jax.tree.leaves(last.params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)


def test_the_command_takes_a_mesh_of_its_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_training.write_model(tmp_path / "model")
    data = tiny_training.write_texts(tmp_path / "texts.jsonl")
    config = tmp_path / "run.yaml"
    config.write_text("mesh: {data: 2}\n")
    arguments = (
        model,
        data,
        tmp_path / "run",
        tmp_path / "cache",
        config,
        "--num-steps",
        1,
        "--set",
        "lora.targets=wq",
    )
    assert tiny_training.train(*arguments) == 0
    said = capsys.readouterr().err
    assert "on 2 cpu devices (data=2) by XLA, without the C++ kernels, into" in said
    assert '"mesh"' not in (tmp_path / "run" / "config.json").read_text()
    assert tiny_training.train(*arguments, "--mesh", "pipeline=3", "--resume") == 2
    assert "can't be divided into pipeline=3 equal stages" in capsys.readouterr().err


def test_a_mesh_evaluates_as_one_device() -> None:
    options: dict[str, Any] = {"tokenizer": byte_tokenizer(), "backend": "reference"}
    alone, found = (
        flaxen.evaluate(MODEL, PARAMS, TEXTS, sequence_length=48, mesh=mesh, **options)
        for mesh in ("", "data=2,tensor=2")
    )
    assert found.num_tokens == alone.num_tokens
    assert found.loss == pytest.approx(alone.loss, rel=1e-5)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("fsdp=4,tensor=2", MeshShape(fsdp=4, tensor=2)),
        ({"fsdp": 4, "tensor": 2}, MeshShape(fsdp=4, tensor=2)),
        (None, MeshShape()),
    ],
)
def test_a_mesh_is_a_text_or_a_mapping(given: Any, expected: MeshShape) -> None:
    assert take_mesh({"model": "m", "mesh": given}) == ({"model": "m"}, expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            4,
            r"mesh must be a text such as fsdp=4,tensor=2, or a mapping such as \{fsdp: 4\}, got 4",
        ),
        ({"model": 2}, "the mesh axis 'model' is not known: use data, fsdp"),
        ({"fsdp": 0}, "the mesh axis fsdp needs a number of devices"),
    ],
)
def test_what_is_no_mesh_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        take_mesh({"mesh": given})


def test_a_misspelt_mesh_is_corrected() -> None:
    with pytest.raises(ValueError, match=r"there is no setting mseh: did you mean mesh\?"):
        make_config({"model": "m", "data": {"files": ["a"]}, "mseh": {"fsdp": 2}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mesh": "data=99"}, "the mesh data=99 needs 99 devices, and cpu has 8 devices here"),
        ({"mesh": "tensor=4"}, "the model's 6 query heads can't be divided over tensor=4"),
        ({"mesh": "data=2", "backend": "cpu"}, "the backend cpu computes on one device"),
        ({"mesh": "data=8"}, "a microbatch has 4 rows, and the mesh data=8 divides them into 8"),
        ({"mesh": "context=5"}, "a row has 48 tokens, and the mesh context=5 divides them into 5"),
    ],
)
def test_what_a_mesh_can_not_divide_is_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flaxen.train(MODEL, PARAMS, TEXTS, num_steps=1, **{**OPTIONS, **options})


def test_rows_that_the_data_choose_can_be_divided(tmp_path: Path) -> None:
    data = {"files": [str(tiny_training.write_texts(tmp_path / "texts.jsonl"))]}
    opened = open_run(
        make_config({"model": "m", "data": data, "method": "full", "num_microbatches": 2}),
        flaxen.Definition(model=MODEL, params=PARAMS, tokenizer=byte_tokenizer()),
        backend="reference",
        mesh=MeshShape(data=2, fsdp=2),
        resume=False,
        places=Places(),
        on_progress=lambda what, done, total: None,
    )
    assert opened.config.data.batch_size == 8
    opened.batches.close()
