"""The options of adapters: what they come to, and which are refused."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from flaxen.cli.serve.adapters import LoraOptions
from flaxen.cli.serve.command import serve
from flaxen.engine.config import LoraLimits


def options(**given: Any) -> LoraOptions:
    defaults: dict[str, Any] = {
        "enable": True, "max_loras": 8, "max_lora_rank": 16, "max_cpu_loras": None, "modules": (),
        "allow_updating": False, "directory": None,
    }  # fmt: skip
    return LoraOptions(**defaults | given)


def test_limits() -> None:
    assert options().limits() == LoraLimits()
    assert options(enable=False).limits() is None
    found = options(max_loras=2, max_lora_rank=4, max_cpu_loras=3).limits()
    assert found == LoraLimits(max_loras=2, max_lora_rank=4, max_cpu_loras=3)


def test_defaults_of_serve_are_the_engines() -> None:
    parameters = inspect.signature(serve).parameters
    for field in fields(LoraLimits):
        assert parameters[field.name].default == field.default


def test_modules(tmp_path: Path) -> None:
    (tmp_path / "c=d").mkdir()
    for directory in (tmp_path, tmp_path / "c=d"):
        (directory / "adapter_config.json").touch()
    found = options(modules=(f"a={tmp_path}", f"ft:b={tmp_path}/c=d")).named_paths()
    assert found == [("a", tmp_path), ("ft:b", tmp_path / "c=d")]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"modules": ("a=b",), "enable": False}, "--lora-modules needs --enable-lora"),
        ({"max_cpu_loras": 9, "enable": False}, "--max-cpu-loras needs --enable-lora"),
        ({"allow_updating": True, "enable": False}, "--allow-runtime-lora-updating needs --enable"),
        ({"directory": Path("x"), "enable": False}, "--lora-dir needs --enable-lora"),
        ({"allow_updating": True}, "and --lora-dir need each other"),
        ({"directory": Path("x")}, "and --lora-dir need each other"),
        ({"modules": ("a",)}, "--lora-modules must be NAME=DIR, got 'a'"),
        ({"modules": ("=a",)}, "--lora-modules must be NAME=DIR, got '=a'"),
        ({"modules": ("a=/nope",)}, "--lora-modules a=/nope: no directory /nope. Name"),
        ({"modules": ("a=/",)}, "--lora-modules a=/: / has no adapter_config.json. Name the direc"),
    ],
)
def test_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options(**given)


def test_a_module_may_not_have_the_base_models_name(tmp_path: Path) -> None:
    model: Any = None  # not reached
    engine: Any = None
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(ValueError, match="'base' is the base model's name"):
        options(modules=(f"base={tmp_path}",)).load_modules(engine, model, ("base",))
