"""Whole plans from shapes: what fits, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flaxen.engine_args import EngineArgs
from flaxen.planning.plan import Plan, plan
from flaxen.sharding.shape import parse_mesh
from tests.planning.shapes import LLAMA_8B, config_only

GIB = 2**30


def made(directory: Path, target: str, mesh: str = "", **changed: Any) -> Plan:
    args = EngineArgs(**({"model": str(config_only(directory)), "max_model_len": 8192} | changed))
    return plan(args, target, parse_mesh(mesh), compiles=False)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return tmp_path / "llama-8b"


def test_what_fits(llama: Path) -> None:
    found = made(llama, "v6e-8", "tensor=8")
    parts = dict(found.serving.memory.parts)
    layers = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336) + 2 * 128256 * 4096
    assert parts["weights"] == layers * 2 // 8 + 65 * 4096 * 2  # norms are whole on each device
    assert found.num_params == layers + 65 * 4096
    assert found.fits
    # A device has one of eight KV heads, and pages take what the engine leaves for them.
    of_token = 32 * 2 * 128 * 2
    assert parts["KV pages"] // of_token == pytest.approx(found.serving.num_cache_tokens, abs=16)
    assert found.serving.largest_batch == found.serving.num_cache_tokens // 8192
    assert found.serving.longest_context == 131072
    assert found.serving.memory.used_bytes < 0.9 * 32 * GIB + 1
    assert found.why_not_compiled == "nothing was compiled, as was asked"


def test_by_how_much_it_does_not_fit(llama: Path) -> None:
    found = made(llama, "v5e-1", max_model_len=8192, max_num_seqs=8)
    parts = dict(found.serving.memory.parts)
    assert not found.fits
    assert found.serving.decode is None
    lacks = sum(parts.values()) + GIB - 0.9 * 16 * GIB  # 8,192 tokens of 128 KiB are a GiB
    assert found.serving.memory.missing_bytes == pytest.approx(lacks, abs=1)


def test_a_decode_step_reads_what_it_must(llama: Path) -> None:
    step = made(llama, "h100", max_model_len=4096, max_num_seqs=64).serving.decode
    assert step is not None
    weights = 2 * (8030261248 - 128256 * 4096)  # without the embedding, whose rows are looked up
    assert step.work.weight_bytes == weights
    assert step.work.cache_bytes == 64 * 4097 * 2**17
    assert step.times.memory_s == pytest.approx(step.work.num_bytes / 3350e9)
    assert step.times.limit == "memory"
    assert step.tokens_per_s == pytest.approx(64 / step.times.memory_s)


def test_a_prefill_step_computes(llama: Path) -> None:
    step = made(llama, "h100").serving.prefill
    assert step is not None
    assert (step.load.num_seqs, step.load.new_tokens) == (1, 2048)
    assert step.times.limit == "compute"


def test_replicas_are_planned_alike(llama: Path) -> None:
    one, two = made(llama, "h100-4", "tensor=4"), made(llama, "h100-8", "tensor=4,data=2")
    assert two.serving.num_replicas == 2
    assert two.serving.memory == one.serving.memory
    assert one.serving.decode is not None
    assert two.serving.decode is not None
    assert two.serving.decode.tokens_per_s == pytest.approx(2 * one.serving.decode.tokens_per_s)


def test_a_config_json_is_a_model(llama: Path) -> None:
    directory = config_only(llama)
    args = EngineArgs(model=str(directory / "config.json"))
    assert plan(args, "h100", parse_mesh(""), compiles=False).model == "llama-8b"


def test_without_a_length_it_is_as_long_as_fits(llama: Path) -> None:
    some = made(llama, "h100", max_model_len=None, max_num_seqs=4, kv_cache_bytes=GIB)
    assert some.serving.max_model_len == 8192
    assert made(llama, "h100", max_model_len=None).serving.max_model_len == 131072


@pytest.mark.parametrize(
    ("target", "mesh", "changed", "said"),
    [
        ("v6e-8", "", {}, "one device is not a mesh of 8 devices, .* use --mesh tensor=8"),
        ("h100-3", "tensor=3", {}, r"32 query heads can't be divided over tensor=3 .* 1, 2, 4, 8"),
        ("h100-2", "fsdp=2", {}, "fsdp divides training, and an engine has no use for it"),
        ("h100-2", "pipeline=2", {}, "does not plan pipeline stages: use tensor and data"),
        ("v7-8", "", {}, "the target 'v7-8' is not known"),
        ("h100", "", {"dtype": "float8"}, "float8"),
        ("h100", "", {"quantization": "int8"}, "does not know the bytes of int8 weights yet"),
        ("h100", "", {"impl": "torch"}, "config.json alone says nothing to --impl torch"),
        ("h100", "", {"max_model_len": 2**18}, "made for 131072 tokens"),
        ("h100", "", {"page_size": 24}, "page_size must divide 128"),
        ("h100", "", {"gpu_memory_utilization": 2}, "must be above 0 and at"),
    ],
)
def test_what_cannot_be_is_refused(
    llama: Path, target: str, mesh: str, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        made(llama, target, mesh, **changed)


def test_a_config_that_is_not_supported_is_named(tmp_path: Path) -> None:
    directory = config_only(tmp_path / "x", LLAMA_8B, architectures=["XForCausalLM"])
    args = EngineArgs(model=str(directory))
    with pytest.raises(ValueError, match=r"x/config.json: the architecture 'XForCausalLM' is not"):
        plan(args, "h100", parse_mesh(""), compiles=False)
