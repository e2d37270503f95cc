"""Which options go with several models, and which model an adapter belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flaxen.cli.options import ChatTemplateOptions, MeshOptions, ModelOptions
from flaxen.cli.processes import ProcessOptions
from flaxen.cli.serve.adapters import LoraOptions
from flaxen.cli.serve.options import ServerOptions
from flaxen.cli.serve.pool_options import (
    PoolOptions,
    divide_adapters,
    refuse_for_several,
)
from flaxen.cli.serve.speculation_options import SpeculationOptions
from flaxen.serving.load_at_start import LoadAtStart

NAMES = [("a", "gpt-4"), ("b",)]


def test_a_single_model_has_no_order_of_loading() -> None:
    PoolOptions(models_memory=1).check(1)
    PoolOptions(load_at_start=LoadAtStart.ALL).check(2)
    with pytest.raises(ValueError, match="--load-at-start is for several models"):
        PoolOptions(load_at_start=LoadAtStart.ALL).check(1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"server": ServerOptions(dev_mode=True)}, "--server-dev-mode changes one model"),
        ({"server": ServerOptions(any_model_name=True)}, "--skip-model-name-validation can't tell"),
        ({"template": ChatTemplateOptions(chat_template="x")}, "--chat-template belongs to one"),
        (
            {"speculation": SpeculationOptions(spec_method="ngram")},
            "--speculative-config belongs to one model",
        ),
        ({"model_options": ModelOptions(definition="x.py:f")}, "--definition belongs to one model"),
        ({"mesh": MeshOptions(mesh="tensor=2")}, "divided over several devices can't take turns"),
        (
            {"processes": ProcessOptions(coordinator_address="h:1")},
            "--coordinator-address divides one model over several processes: leave it out, or sta",
        ),
    ],
)
def test_options_of_a_single_model_are_refused(given: dict[str, Any], message: str) -> None:
    nothing = {
        "server": ServerOptions(),
        "model_options": ModelOptions(),
        "template": ChatTemplateOptions(),
        "speculation": SpeculationOptions(),
        "mesh": MeshOptions(),
        "processes": ProcessOptions(),
    }
    refuse_for_several(**nothing)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        refuse_for_several(**(nothing | given))


def test_adapters_belong_to_the_model_that_they_name() -> None:
    lora = LoraOptions(enable_lora=True, lora_modules=["gpt-4:x=d1", "b:y=d2", "a:z=d3"])
    first, second = divide_adapters(lora, NAMES, has_jobs=False)
    assert (first.enable_lora, first.lora_modules) == (True, ["x=d1", "z=d3"])
    assert (second.enable_lora, second.lora_modules) == (True, ["y=d2"])
    first, second = divide_adapters(LoraOptions(), NAMES, has_jobs=False)
    assert (first.limits(), second.limits()) == (None, None)


def test_adapters_of_clients_and_of_jobs_are_the_first_models() -> None:
    given = LoraOptions(
        enable_lora=True, allow_runtime_lora_updating=True, lora_dir=Path("d"), max_cpu_loras=3
    )
    for lora, has_jobs in ((given, False), (LoraOptions(enable_lora=True), True)):
        first, second = divide_adapters(lora, NAMES, has_jobs=has_jobs)
        assert first == lora
        assert second == LoraOptions()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lora_modules": ["x=d"]}, "--lora-modules x=d does not say which .* BASE is one of a, b"),
        ({"lora_modules": ["z:x=d"]}, "does not say which of the models it belongs to"),
        ({}, "--enable-lora does not say for which of several models"),
    ],
)
def test_adapters_of_no_model_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        divide_adapters(LoraOptions(enable_lora=True, **given), NAMES, has_jobs=False)
