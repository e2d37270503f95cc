"""Keyword arguments of `flaxen.train` become settings, or are refused with the nearest name."""

from __future__ import annotations

from typing import Any

import pytest

from flaxen.runs.keywords import settings_of
from flaxen.training.optimizer import OptimizerConfig
from flaxen.training.settings import make_config


def test_common_settings_need_no_level() -> None:
    found = settings_of(
        {
            "learning_rate": 0.1,
            "optimizer": {"name": "lion"},
            "rank": 4,
            "epochs": 2,
            "shuffle": False,
            "seed": 3,
            "num_steps": None,
            "method": "lora",
        }
    )
    assert found == {
        "optimizer": {"name": "lion", "learning_rate": 0.1},
        "lora": {"rank": 4},
        "data": {"epochs": 2, "shuffle": False, "seed": 3},
        "seed": 3,
        "method": "lora",
    }


def test_a_level_may_be_its_configuration_and_is_not_changed() -> None:
    level = {"name": "sgd"}
    assert settings_of({"optimizer": level, "learning_rate": 1.0})["optimizer"]["name"] == "sgd"
    assert level == {"name": "sgd"}
    found = settings_of({"optimizer": OptimizerConfig(name="sgd")})["optimizer"]
    assert found["name"] == "sgd"
    assert found["momentum"] == 0.95


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        (
            {"learning_rte": 1},
            "flaxen.train has no argument 'learning_rte': did you mean learning_",
        ),
        ({"weight_decay": 1}, "it is a setting of optimizer, given as optimizer={'weight_decay'"),
        ({"data.epochs": 1}, "no argument 'data.epochs': did you mean epochs"),
        ({"zzz": 1}, "no argument 'zzz': known: "),
        ({"files": ["a"]}, "no argument 'files'"),
    ],
)
def test_an_unknown_argument_is_refused(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        settings_of(keywords)


def test_what_is_no_level_is_left_to_the_reader_of_settings() -> None:
    found = settings_of({"optimizer": "lion"})
    with pytest.raises(ValueError, match="optimizer must hold settings as name: value, got 'lion'"):
        make_config({"model": "m", "data": {"files": ["a"]}, **found})
    with pytest.raises(ValueError, match=r"optimizer.learning_rate can't be set: optimizer is the"):
        settings_of({"optimizer": "lion", "learning_rate": 1.0})
