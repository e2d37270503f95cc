"""The options of adapters: what they come to, and which are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flaxen.cli.serve.adapters import LoraOptions
from flaxen.engine.config import LoraLimits


def options(**given: Any) -> LoraOptions:
    return LoraOptions(**{"enable_lora": True} | given)


def test_limits() -> None:
    assert options().limits() == LoraLimits()
    assert options(enable_lora=False).limits() is None
    found = options(max_loras=2, max_lora_rank=4, max_cpu_loras=3).limits()
    assert found == LoraLimits(max_loras=2, max_lora_rank=4, max_cpu_loras=3)


def test_modules(tmp_path: Path) -> None:
    (tmp_path / "c=d").mkdir()
    for directory in (tmp_path, tmp_path / "c=d"):
        (directory / "adapter_config.json").touch()
    found = options(lora_modules=[f"a={tmp_path}", f"ft:b={tmp_path}/c=d"]).named_paths()
    assert found == [("a", tmp_path), ("ft:b", tmp_path / "c=d")]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lora_modules": ["a=b"], "enable_lora": False}, "--lora-modules needs --enable-lora"),
        ({"max_cpu_loras": 9, "enable_lora": False}, "--max-cpu-loras needs --enable-lora"),
        (
            {"allow_runtime_lora_updating": True, "enable_lora": False},
            "--allow-runtime-lora-updating needs --enable",
        ),
        ({"lora_dir": Path("x"), "enable_lora": False}, "--lora-dir needs --enable-lora"),
        ({"allow_runtime_lora_updating": True}, "and --lora-dir need each other"),
        ({"lora_dir": Path("x")}, "and --lora-dir need each other"),
        ({"lora_modules": ["a"]}, "--lora-modules must be NAME=DIR, got 'a'"),
        ({"lora_modules": ["=a"]}, "--lora-modules must be NAME=DIR, got '=a'"),
        ({"lora_modules": ["a=/nope"]}, "--lora-modules a=/nope: no directory /nope. Name"),
        (
            {"lora_modules": ["a=/"]},
            "--lora-modules a=/: / has no adapter_config.json. Name",
        ),
    ],
)
def test_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options(**given).check()


def test_a_module_may_not_have_the_base_models_name(tmp_path: Path) -> None:
    model: Any = None  # not reached
    engine: Any = None
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(ValueError, match="'base' is the base model's name"):
        options(lora_modules=[f"base={tmp_path}"]).load_modules(engine, model, ("base",))
