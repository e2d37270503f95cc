"""Whole plans from shapes: what fits, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flaxen.engine_args import EngineArgs
from flaxen.planning.plan import Plan, plan, why_not_compiled
from flaxen.planning.serving import ServingPlan
from flaxen.planning.targets import find_hardware
from flaxen.sharding.shape import parse_mesh
from tests.planning.shapes import LLAMA_8B, config_only

GIB = 2**30


def made(directory: Path, target: str, mesh: str = "", **changed: Any) -> Plan:
    args = EngineArgs(**({"model": str(config_only(directory)), "max_model_len": 8192} | changed))
    return plan(args, target, parse_mesh(mesh), compiles=False)


def served(directory: Path, target: str, mesh: str = "", **changed: Any) -> ServingPlan:
    found = made(directory, target, mesh, **changed).serving
    assert found is not None
    return found


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return tmp_path / "llama-8b"


def test_what_fits(llama: Path) -> None:
    found = made(llama, "v6e-8", "tensor=8")
    serving = found.serving
    assert serving is not None
    parts = dict(serving.memory.parts)
    layers = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336) + 2 * 128256 * 4096
    assert parts["weights"] == layers * 2 // 8 + 65 * 4096 * 2  # norms are whole on each device
    assert found.num_params == layers + 65 * 4096
    assert found.fits
    # A device has one of eight KV heads, and pages take what the engine leaves for them.
    of_token = 32 * 2 * 128 * 2
    assert parts["KV pages"] // of_token == pytest.approx(serving.num_cache_tokens, abs=16)
    assert serving.largest_batch == serving.num_cache_tokens // 8192
    assert serving.longest_context == 131072
    assert serving.memory.used_bytes < 0.9 * 32 * GIB + 1
    assert found.why_not_compiled == "nothing was compiled, as was asked"


def test_a_cache_of_eight_bits_holds_twice_as_many_tokens(llama: Path) -> None:
    whole, halved = (
        served(llama, "v6e-8", "tensor=8", kv_cache_dtype=dtype) for dtype in ("auto", "fp8")
    )
    assert halved.num_cache_tokens == pytest.approx(2 * whole.num_cache_tokens, rel=1e-3)
    assert dict(halved.memory.parts)["KV pages"] == pytest.approx(
        dict(whole.memory.parts)["KV pages"], rel=1e-3
    )


def test_heads_that_a_kernel_pads_take_pages_that_still_fit(tmp_path: Path) -> None:
    """The kernel of TPUs lays a head of 96 in 128 numbers, and one of 64 in 64."""
    for head_dim in (96, 64):
        directory = config_only(tmp_path / str(head_dim), LLAMA_8B | {"head_dim": head_dim})
        serving = served(tmp_path, "v6e-8", "tensor=8", model=str(directory))
        assert serving.memory.fits
        assert serving.memory.used_bytes == pytest.approx(0.9 * 32 * GIB, rel=1e-3)


def test_by_how_much_it_does_not_fit(llama: Path) -> None:
    serving = served(llama, "v5e-1", max_num_seqs=8)
    parts = dict(serving.memory.parts)
    assert not serving.fits
    assert serving.decode is None
    lacks = sum(parts.values()) + GIB - 0.9 * 16 * GIB  # 8,192 tokens of 128 KiB are a GiB
    assert serving.memory.missing_bytes == pytest.approx(lacks, abs=1)


def test_a_decode_step_reads_what_it_must(llama: Path) -> None:
    step = served(llama, "h100", max_model_len=4096, max_num_seqs=64).decode
    assert step is not None
    weights = 2 * (8030261248 - 128256 * 4096)  # without the embedding, whose rows are looked up
    assert step.work.weight_bytes == weights
    assert step.work.cache_bytes == 64 * 4097 * 2**17
    assert step.times.memory_s == pytest.approx(step.work.num_bytes / 3350e9)
    assert step.times.limit == "memory"
    assert step.tokens_per_s == pytest.approx(64 / step.times.memory_s)


def test_a_prefill_step_computes(llama: Path) -> None:
    step = served(llama, "h100").prefill
    assert step is not None
    assert (step.load.num_seqs, step.load.new_tokens) == (1, 2048)
    assert step.times.limit == "compute"


def test_replicas_are_planned_alike(llama: Path) -> None:
    one, two = served(llama, "h100-4", "tensor=4"), served(llama, "h100-8", "tensor=4,data=2")
    assert two.num_replicas == 2
    assert two.memory == one.memory
    assert one.decode is not None
    assert two.decode is not None
    assert two.decode.tokens_per_s == pytest.approx(2 * one.decode.tokens_per_s)


def test_a_config_json_is_a_model(llama: Path) -> None:
    directory = config_only(llama)
    args = EngineArgs(model=str(directory / "config.json"))
    assert plan(args, "h100", parse_mesh(""), compiles=False).model == "llama-8b"


def test_without_a_length_it_is_as_long_as_fits(llama: Path) -> None:
    some = served(llama, "h100", max_model_len=None, max_num_seqs=4, kv_cache_bytes=GIB)
    assert some.max_model_len == 8192
    assert served(llama, "h100", max_model_len=None).max_model_len == 131072


@pytest.mark.parametrize(("quantization", "bits"), [("int8", 8), ("int4", 5)])
def test_quantized_weights_are_counted_with_their_scales(
    llama: Path, quantization: str, bits: int
) -> None:
    parts = dict(served(llama, "h100", quantization=quantization).memory.parts)
    tables = 2 * 128256 * 4096
    layers = 8030261248 - tables - 65 * 4096
    scales = (4096 + 2 * 128256) if bits == 5 else 32 * (2 * 4096 + 2 * 1024 + 2 * 14336 + 4096)
    assert parts["weights"] == pytest.approx(layers * bits // 8 + tables + 4 * scales, rel=1e-3)


def test_a_quantized_config_without_its_weights_is_planned_as_asked(llama: Path) -> None:
    directory = config_only(llama, LLAMA_8B, quantization_config={"quant_method": "fp8"})
    args = EngineArgs(model=str(directory), max_model_len=8192)
    with pytest.raises(ValueError, match=r"weights are quantized \(fp8\).* or --quantization fp8"):
        plan(args, "h100", parse_mesh(""), compiles=False)
    found = plan(replace(args, quantization="fp8"), "h100", parse_mesh(""), compiles=False).serving
    assert found == served(llama, "h100", quantization="fp8")
    refused = config_only(llama, LLAMA_8B, quantization_config={"quant_method": "hqq"})
    with pytest.raises(ValueError, match="names the method 'hqq', which is not supported"):
        plan(replace(args, model=str(refused)), "h100", parse_mesh(""), compiles=False)


def test_a_file_s_own_blocks_are_counted(tmp_path: Path) -> None:
    """The model of the tests is Q4_1: five bits a weight, and its table eight with scales."""
    args = EngineArgs(model="smollm2-135m", max_model_len=2048)
    kept = plan(args, "h100", parse_mesh(""), compiles=False).serving
    plain = plan(replace(args, quantization="none"), "h100", parse_mesh(""), compiles=False).serving
    assert kept is not None
    assert plain is not None
    share = dict(kept.memory.parts)["weights"] / dict(plain.memory.parts)["weights"]
    assert 5 / 16 < share < 9 / 16


@pytest.mark.parametrize(
    ("target", "mesh", "changed", "said"),
    [
        ("v6e-8", "", {}, "one device is not a mesh of 8 devices, .* use --mesh tensor=8"),
        ("h100-3", "tensor=3", {}, r"32 query heads can't be divided over tensor=3 .* 1, 2, 4, 8"),
        ("h100-2", "fsdp=2", {}, "fsdp divides training, and an engine has no use for it"),
        ("h100-2", "pipeline=2", {}, "does not plan pipeline stages yet: use the other"),
        ("v7-8", "", {}, "the target 'v7-8' is not known"),
        ("h100", "", {"dtype": "float8"}, "float8"),
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


@pytest.mark.parametrize(
    ("target", "compiles", "is_installed", "said"),
    [
        ("v6e-8", True, True, None),
        ("v6e-8", True, False, "not installed; pip install 'flaxen[tpu]' for its figures"),
        ("v6e-8", False, True, "as was asked"),
        ("h100", True, True, "nothing is compiled for GPUs here"),
    ],
)
def test_a_plan_says_why_nothing_was_compiled(
    target: str, compiles: bool, is_installed: bool, said: str | None
) -> None:
    found = why_not_compiled(find_hardware(target), compiles, is_installed=is_installed)
    assert (found is None) == (said is None)
    assert said is None or said in (found or "")
