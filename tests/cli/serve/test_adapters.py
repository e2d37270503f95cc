"""The options of adapters: what they come to, and which are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flaxen.cli.serve.adapters import LoraOptions, serve_adapter
from flaxen.cli.serve.options import ServerOptions
from flaxen.hub.places import Places
from flaxen.scheduling.config import LoraLimits


def options(**given: Any) -> LoraOptions:
    return LoraOptions(**{"enable_lora": True} | given)


def test_limits() -> None:
    assert options().limits() == LoraLimits()
    assert options(enable_lora=False).limits() is None
    found = options(max_loras=2, max_lora_rank=4, max_cpu_loras=3).limits()
    assert found == LoraLimits(max_loras=2, max_lora_rank=4, max_cpu_loras=3)
    for most, slots in ((None, 8), (2, 2), (20, 8)):
        found = options(max_cpu_loras=most).limits()
        assert found is not None
        assert found.max_loras == slots


def test_modules(tmp_path: Path) -> None:
    (tmp_path / "c=d").mkdir()
    for directory in (tmp_path, tmp_path / "c=d"):
        (directory / "adapter_config.json").touch()
    found = options(lora_modules=[f"a={tmp_path}", f"ft:b={tmp_path}/c=d"]).served()
    assert found.at_start == (("a", tmp_path), ("ft:b", tmp_path / "c=d"))
    assert found.limits == LoraLimits()


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


def test_an_adapter_as_model_is_served_beside_its_base(tmp_path: Path) -> None:
    directory = tmp_path / "mine"
    directory.mkdir()
    fields = {"peft_type": "LORA", "r": 32, "base_model_name_or_path": str(tmp_path)}
    (directory / "adapter_config.json").write_text(json.dumps(fields))
    other = f"other={tmp_path}"

    def served(*names: str) -> tuple[str, ServerOptions, LoraOptions]:
        server = ServerOptions(served_model_names=list(names))
        lora = options(enable_lora=False, lora_modules=[other])
        return serve_adapter(str(directory), server, lora, Places(offline=True))

    base, server, lora = served()
    assert (base, server.served_model_names) == (str(tmp_path), [])
    assert lora.lora_modules == [f"mine={directory}", other]
    assert lora.limits() == LoraLimits(max_lora_rank=32)
    assert served("poet")[2].lora_modules[0] == f"poet={directory}"
    with pytest.raises(ValueError, match=r"is an adapter, which has one name here: .* not 2"):
        served("poet", "bard")
    model = serve_adapter(str(tmp_path), server, lora, Places(offline=True))
    assert model == (str(tmp_path), server, lora)
