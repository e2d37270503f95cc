"""The memory of several models, decided from their files before any weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flaxen.engine_args import EngineArgs
from flaxen.memory import model_cache
from flaxen.memory.cache_plan import PoolReason
from flaxen.serving.planned_models import MemoryPlan, Wanted, plan_models
from tests.e2e.tiny_model import write_tiny_model
from tests.extras import extra
from tests.models import encoders

MIB = 2**20


@pytest.fixture(scope="module")
def directories(tmp_path_factory: Any) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    for name in ("one", "other"):
        (root / name).mkdir()
    return [write_tiny_model(root / name) for name in ("one", "other")]


def planned(
    directories: list[Path], budget: int | None = None, stays: bool = False, **args: Any
) -> MemoryPlan:
    wanted = [Wanted(args=EngineArgs(model=str(each), **args)) for each in directories]
    return plan_models(
        wanted,
        budget_bytes=budget,
        stays=stays,
        report=lambda *_: None,
        measure_free=lambda: 100 * MIB,
    )


def test_four_fifths_of_the_free_memory_are_for_models(directories: list[Path]) -> None:
    plan = planned(directories)
    assert (plan.budget_bytes, plan.fits_at_once) == (80 * MIB, True)
    assert [each.name for each in plan.models] == ["one", "other"]
    for each in plan.models:
        assert each.cache_plan.pool_reason is PoolReason.ALL_SEQUENCES
        assert each.cache_plan.max_model_len == 512
        assert each.num_bytes == each.weight_bytes + each.cache_plan.num_bytes


def test_models_that_fit_together_share_equally(directories: list[Path]) -> None:
    plan = planned(directories, 3 * MIB)
    assert plan.fits_at_once
    sizes = {each.num_bytes for each in plan.models}
    assert len(sizes) == 1
    assert sum(each.num_bytes for each in plan.models) <= 3 * MIB
    assert {each.cache_plan.pool_reason for each in plan.models} == {PoolReason.BUDGET}


def test_models_that_do_not_fit_together_take_turns(directories: list[Path]) -> None:
    weights = planned(directories).models[0].weight_bytes
    budget = int(1.7 * weights)
    plan = planned(directories, budget)
    assert not plan.fits_at_once
    for each in plan.models:
        assert weights < each.num_bytes <= budget
        assert 0 < each.cache_plan.max_model_len <= 512


def test_stored_pages_are_a_part_of_the_memory(directories: list[Path]) -> None:
    without = planned(directories, 5 * MIB)
    stored = MIB
    plan = planned(directories, 5 * MIB, kv_offload_bytes=stored)
    assert plan.fits_at_once
    for each, before in zip(plan.models, without.models, strict=True):
        assert each.num_bytes == each.weight_bytes + stored + each.cache_plan.num_bytes
        assert each.cache_plan.num_bytes == before.cache_plan.num_bytes - stored
    assert sum(each.num_bytes for each in plan.models) <= 5 * MIB
    assert not planned(directories, 2 * MIB, kv_offload_bytes=stored).fits_at_once
    with pytest.raises(ValueError, match=r"the weights of one take 3\.\d MiB with the pages that"):
        planned(directories, 3 * MIB, kv_offload_bytes=3 * MIB)
    with pytest.raises(ValueError, match=r"leaves 0\.\d MiB for it beside the weights and stored"):
        planned(directories, 2 * MIB, kv_offload_bytes=stored, kv_cache_bytes=MIB)
    # By default they are within the four fifths of the free memory.
    plan = planned(directories, kv_offload_bytes=30 * MIB)
    assert (plan.budget_bytes, plan.fits_at_once) == (80 * MIB, True)
    assert not planned(directories, kv_offload_bytes=50 * MIB).fits_at_once
    with pytest.raises(ValueError, match=r"the weights of one take 100\.\d MiB with the pages"):
        planned(directories, kv_offload_bytes=100 * MIB)


def test_beside_an_accelerator_the_stores_of_all_models_need_room_on_the_host(
    directories: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_cache, "memory_limit", lambda: 2**34)
    assert planned(directories, kv_offload_bytes=50 * MIB).fits_at_once
    with pytest.raises(ValueError, match=r"\(--kv-offload-bytes\) is 102\.0 MiB, and the machine"):
        planned(directories, kv_offload_bytes=51 * MIB)


def test_a_model_without_pages_stores_none_beside_those_that_do(
    directories: list[Path], tmp_path: Path
) -> None:
    extra("transformers")
    encoder = encoders.save(encoders.make(encoders.CASES["bert"]), tmp_path / "encoder")
    plan = planned([directories[0], encoder], kv_offload_bytes=MIB, kv_offload_dir=tmp_path)
    assert [each.stored_bytes for each in plan.models] == [MIB, 0]
    first, second = (each.wanted.args for each in plan.models)
    assert (first.kv_offload_dir, second.kv_offload_dir) == (tmp_path, None)


def test_a_longest_length_is_a_limit_for_all(directories: list[Path]) -> None:
    lengths = [128, 100_000]  # the models were made for 512
    found = [planned(directories, max_model_len=each).models for each in lengths]
    assert [{each.cache_plan.max_model_len for each in models} for models in found] == [
        {128},
        {512},
    ]


def test_too_little_memory_names_the_model(directories: list[Path]) -> None:
    with pytest.raises(ValueError, match=r"the weights of one take 0\.\d MiB .*--models-memory"):
        planned(directories, 1000)
    weights = planned(directories).models[0].weight_bytes
    with pytest.raises(ValueError, match=r"the longest that fits has \d+ tokens .*--models-memory"):
        planned(directories, int(1.1 * weights), max_model_len=512)
    with pytest.raises(ValueError, match=r"KV cache of 64\.0 MiB was asked for, and the memory"):
        planned(directories, 20 * MIB, kv_cache_bytes=64 * MIB)


def test_a_system_that_does_not_tell_its_memory_asks_for_a_size(directories: list[Path]) -> None:
    wanted = [Wanted(args=EngineArgs(model=str(directories[0])))]
    with pytest.raises(ValueError, match=r"does not say how much memory is free: say with"):
        plan_models(
            wanted,
            budget_bytes=None,
            stays=False,
            report=lambda *_: None,
            measure_free=lambda: None,
        )
