"""The device check: its table, what it keeps of a part that is cut, and that it runs at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools.device.__main__ import environment, run_part, run_parts
from tools.device.figures import read, rounded
from tools.device.install import needed
from tools.device.parts import PARTS, TOTAL_S, Part
from tools.device.targets import judged
from tools.device.wheels import check_size, missing, requirements

ROOT = Path(__file__).parents[2]


def test_the_parts_fit_their_time_and_measure_the_limits_first() -> None:
    assert sum(part.limit_s for part in PARTS) <= TOTAL_S == 480
    assert PARTS[0].name == "limits"
    assert len({part.name for part in PARTS}) == len(PARTS)
    for part in PARTS:
        assert (ROOT / "tools" / "device" / f"{part.module}.py").is_file()


def test_what_was_found_before_the_end_is_kept() -> None:
    output = 'noise\nFIGURE {"a": 1}\nFIGURE {"b": {"c": 2}}\nFIGURE {"d": '
    assert read(output) == {"a": 1, "b": {"c": 2}}
    assert rounded({"a": 1234.567, "b": 7, "c": True}) == {"a": 1235.0, "b": 7, "c": True}


@pytest.mark.slow
def test_a_part_that_takes_too_long_is_cut_and_one_that_fails_says_why() -> None:
    part = Part(name="limits", module="limits", limit_s=0.05)
    assert run_part(part, {}, tiny=True, limit_s=0.05).keys() == {"cut_after_s"}
    wrong = Part(name="none", module="none", limit_s=30)
    assert "No module named" in run_part(wrong, {}, tiny=True, limit_s=30)["error"]
    assert run_parts(["kernels"], tiny=True, total_s=0) == {"kernels": {"cut_after_s": 0}}


def test_a_foreign_part_runs_without_our_libraries() -> None:
    ours, foreign = PARTS[0], next(part for part in PARTS if part.is_foreign)
    variables = {"DEVICE_SITE": "/site", "XLA_PYTHON_CLIENT_MEM_FRACTION": ".5"}
    found = environment(ours, variables)
    assert found["PYTHONPATH"].split(os.pathsep) == [f"{ROOT}/tools", str(ROOT), "/site"]
    assert "XLA_CLIENT_MEM_FRACTION" not in found  # XLA refuses both names at once
    assert environment(foreign, variables)["PYTHONPATH"] == f"{ROOT}/tools"
    assert environment(ours, {})["XLA_CLIENT_MEM_FRACTION"] == "0.95"


def test_targets_are_judged_by_what_was_measured() -> None:
    parts: dict[str, dict[str, Any]] = {
        "1b": {"decode_64": {"share_of_copy": 0.71, "tok_s": 7000.0}, "cut_after_s": 70},
        "8b": {"prefill_4096": {"share_of_matmul": 0.5}},
        "1b-transformers": {"decode_64": {"tok_s": 1000.0}},
    }
    found = judged(parts)
    assert found["decode_64_share_of_copy_1b"] == {"target": 0.7, "found": 0.71, "is_met": True}
    assert found["prefill_4096_share_of_matmul_8b"]["is_met"] is False
    assert found["times_transformers_1b"] == {"target": 6.0, "found": 7.0, "is_met": True}
    assert found["times_transformers_8b"]["found"] is None
    assert found["decode_64_share_of_copy_8b"]["is_met"] is None


def test_wheels_of_what_the_machine_has_are_left_out() -> None:
    listed = requirements(ROOT / "pyproject.toml")
    assert "jax==0.11.*" in listed
    assert not any(each.startswith("jax>=") for each in listed)
    named = [("jax", "0.11.2"), ("ml_dtypes", "1"), ("gguf", "0.19.0")]
    report = {"install": [{"metadata": {"name": n, "version": v}} for n, v in named]}
    assert missing(report) == ["gguf==0.19.0"]
    check_size({"a.whl": 60_000_000})
    with pytest.raises(ValueError, match=r"the wheels have 61\.0 MB, and at most 60 are carried; "):
        check_size({"a.whl": 60_000_000, "b.whl": 1_000_000})


def test_only_what_is_missing_or_does_not_fit_is_installed() -> None:
    names = ["not_there-1.0-py3-none-any.whl", "numpy-9-py3-none-any.whl", "jax-9-py3-none-any.whl"]
    found = needed(map(Path, names), ["numpy>=2.0", "jax>=9999"])
    assert [each.name for each in found] == [names[0], names[2]]


@pytest.mark.slow
def test_the_check_runs_on_a_cpu(tmp_path: Path) -> None:
    parts = ["limits", "kernels", "8b", "lora-1b"]
    command = [ROOT / "tools/device/check.sh", "--tiny", *(f"--part={each}" for each in parts)]
    variables = os.environ | {"PYTHON": sys.executable, "OUT": str(tmp_path)}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    (written,) = tmp_path.glob("device-*.json")
    assert json.loads(written.read_text()) == record
    assert list(record["parts"]) == parts
    assert record["parts"]["kernels"]["paged_attention"]["is_right"]
    assert 0 < record["parts"]["8b"]["decode_4"]["share_of_copy"] < 1
    assert record["parts"]["lora-1b"]["lora"]["last_loss"] < 10
    assert record["targets"]["times_transformers_1b"]["is_met"] is None
