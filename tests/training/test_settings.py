"""Settings from YAML: what is read, what overrides, and what is refused in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flaxen.training.config import AdapterConfig, TrainConfig
from flaxen.training.optimizer import OptimizerConfig
from flaxen.training.settings import make_config, parse_yaml, read_yaml, set_value

YAML = """
model: smollm2-135m
output_dir: out
method: lora
num_steps: 10
data:
  files: [a.jsonl, b.txt]
  batch_size: 4
optimizer:
  learning_rate: 1e-4
  max_grad_norm:
lora:
  rank: 8
  seeds: [1, 2]
"""


def settings(**changes: Any) -> dict[str, Any]:
    return {"model": "m", "output_dir": "o", "data": {"files": ["a.txt"]}, **changes}


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(YAML)
    found = read_yaml(path)
    set_value(found, "data.batch_size", 6)
    set_value(found, "schedule.name", "wsd")
    config = make_config(found)
    assert config.model == "smollm2-135m"
    assert config.output_dir == Path("out")
    assert config.data.files == (Path("a.jsonl"), Path("b.txt"))
    assert config.data.batch_size == 6
    assert config.data.epochs is None  # num_steps says when it ends
    assert config.optimizer == OptimizerConfig(learning_rate=1e-4, max_grad_norm=None)
    assert config.schedule.name == "wsd"
    assert config.lora.num_adapters == 2
    assert config.lora.to_lora().rank == 8


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("2.5E+3", 2500.0), ("-1e2", -100.0), ("'1e-4'", "1e-4"), ("e4", "e4")],
)
def test_a_number_with_an_exponent_is_a_number(text: str, value: Any) -> None:
    assert parse_yaml(text) == value
    assert type(parse_yaml(text)) is type(value)


@pytest.mark.parametrize("text", ["2026-11-28", "2026-11-28 10:00:00", "2026-13-45"])
def test_what_looks_like_a_date_is_a_text_as_written(text: str) -> None:
    assert parse_yaml(text) == text


def test_a_home_directory_and_a_date_make_paths() -> None:
    config = make_config(settings(output_dir="~/out", data=parse_yaml("files: 2026-11-28")))
    assert config.output_dir == Path.home() / "out"
    assert config.data.files == (Path("2026-11-28"),)


def test_without_a_number_of_steps_each_record_is_read_once() -> None:
    config = make_config(settings())
    assert (config.num_steps, config.data.epochs) == (None, 1)
    assert make_config(settings(num_steps=3, data={"files": "a.txt", "epochs": 2})).data.epochs == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modle": 1}, r"there is no setting modle: did you mean model\?"),
        ({"optimizer": {"lr": 1}}, r"there is no setting optimizer\.lr: known: name, learning"),
        ({"data": {}}, r"the setting data\.files is missing: give --data FILE\.jsonl, or"),
        ({"data": 3}, r"data must hold settings as name: value, got 3"),
        ({"seed": 1.5}, r"seed must be a whole number, got 1\.5"),
        ({"seed": True}, r"seed must be a whole number, got True"),
        ({"from_scratch": "yes"}, r"from_scratch must be true or false, got 'yes'"),
        ({"optimizer": {"eps": "x"}}, r"optimizer\.eps must be a number, got 'x'"),
        ({"model": 3}, r"model must be a text, got 3"),
        ({"output_dir": 3}, r"output_dir must be a path, got 3"),
        ({"optimizer": {"eps": "1e-8"}}, r"optimizer\.eps must be a number, got '1e-8'"),
        ({"seed": "3"}, r"seed must be a whole number, got '3'"),
        ({"seed": 3.0}, r"seed must be a whole number, got 3\.0"),
        ({"from_scratch": 1}, r"from_scratch must be true or false, got 1"),
        ({"lora": {"seeds": [1, "2"]}}, r"lora\.seeds must be a whole number, got '2'"),
        ({"lora": {"targets": 3}}, r"lora\.targets must be a text, got 3"),
        ({"lora": {"rnk": 1}, "seed": "x"}, r"setting lora\.rnk: did you mean lora\.rank\?"),
        (
            {"data": {"files": "a", "format": 3}},
            r"data\.format 3 is not supported: use one of auto",
        ),
        ({"data": {"files": []}}, r"data: files is empty: name at least one file of records"),
        ({"optimizer": {"eps": -1}}, r"optimizer: eps must be above 0, got -1\.0"),
        ({"method": "qlora"}, r"method 'qlora' is not supported: use one of full, lora, dpo"),
        ({"dtype": "float16"}, r"dtype 'float16' is not supported: use one of auto, float32"),
        ({"remat": "all"}, r"remat 'all' is not supported: use one of none, layer"),
        ({"num_steps": 0}, r"num_steps must be at least 1, got 0"),
        ({"data": {"files": "a", "epochs": None}}, r"num_steps is missing, and with data\.epochs"),
        (
            {"num_microbatches": 3, "data": {"files": "a", "batch_size": 8}},
            r"num_microbatches must divide data\.batch_size 8, got 3",
        ),
        ({"from_scratch": True}, r"from_scratch trains all parameters, and the method lora adapt"),
        ({"method": "full", "lora": {"rank": 2}}, r"under lora mean nothing to the method full"),
        ({"dpo": {"beta": 0.2}}, r"the settings under dpo mean nothing to the method lora"),
        ({"lora": {"rank": 0}}, r"lora: a LoRA rank must be at least 1, got 0"),
        ({"lora": {"dropout": 1}}, r"lora: dropout must be from 0 to below 1, got 1\.0"),
        ({"lora": {"learning_rates": [0]}}, r"lora: learning_rates must be above 0, got \(0\.0,\)"),
        ({"lora": {"base_quantization": "int2"}}, r"base_quantization 'int2' is not supported"),
        ({"checkpoint": {"every": 0}}, r"checkpoint: every must be at least 1, got 0"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(settings(**changes))


def test_lists_for_adapters_must_be_as_long() -> None:
    with pytest.raises(ValueError, match="2 seeds and 1 learning_rates: give one of each"):
        AdapterConfig(seeds=(1, 2), learning_rates=(0.1,))


def test_files_that_hold_no_settings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("a: [")
    with pytest.raises(ValueError, match=r"config\.yaml is no YAML"):
        read_yaml(path)
    path.write_text("model")
    with pytest.raises(ValueError, match=r"must hold settings as name: value"):
        read_yaml(path)


def test_a_value_is_no_level() -> None:
    with pytest.raises(ValueError, match=r"model\.name can't be set: model is the value 'm'"):
        set_value(settings(), "model.name", 1)


def test_the_settings_are_few() -> None:
    assert len(TrainConfig.__dataclass_fields__) <= 15
