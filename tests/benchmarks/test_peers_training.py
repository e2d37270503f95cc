"""Workload L: trainers that are a few lines of Python, and figures that are given."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks.peers.engines import MODELS, Place
from benchmarks.peers.show_training import limit_shares, trainers_as_figures, trainers_table
from benchmarks.peers.targets_training import judge_trainers
from benchmarks.peers.trainers import DEFAULTS, NAMES, make_trainer
from benchmarks.peers.training import (
    NUM_ROWS,
    ROW_LENGTH,
    STEPS_PER_TURN,
    Step,
    Trainer,
    TrainerOutcome,
    compare_trainers,
    make_steps,
)
from benchmarks.peers.workers.lora_start import TARGETS, draw_a
from flaxen.benchmark.limits import Limits
from flaxen.models.adapters import LORA_TARGETS

# Each step's loss is its first token, and takes 2 s by what it claims.
_SCRIPT = """
import json, sys
name, log = sys.argv[1:]
print(json.dumps({"ready": {"fake": "1"}}), flush=True)
for line in sys.stdin:
    steps = json.loads(line)["steps"]
    with open(log, "a") as file:
        file.write(f"{name} {len(steps)}\\n")
    losses = [rows[0][0] for rows in steps]
"""
_REPLY = """
    print(json.dumps({"wall_s": 2 * len(steps), "losses": losses}), flush=True)
"""
BEHAVIOURS = {
    "good": _SCRIPT + _REPLY,
    "ends": _SCRIPT + "    sys.exit('out of memory')\n",
    "errs": _SCRIPT + "    print(json.dumps({'error': 'RuntimeError: no'}), flush=True)\n",
    "declines": _SCRIPT + "    print(json.dumps({'unsupported': 'not these'}), flush=True)\n",
    "stops short": _SCRIPT + "    losses = losses[1:]\n" + _REPLY,
    "ends at once": "import sys; sys.exit('no such model')",
}
STEPS: list[Step] = [((i, 0), (0, 0)) for i in range(5)]  # of 4 tokens
LIMITS = Limits(read_bytes_s=10, matmul_flops={"float32": 800.0})


def compare(names: dict[str, str], tmp_path: Path) -> dict[str, TrainerOutcome]:
    """Trains on STEPS with trainers of these behaviours."""
    trainers = [
        Trainer(
            name=name,
            command=(sys.executable, "-c", BEHAVIOURS[behaviour], name, str(tmp_path / "order")),
            env={},
        )
        for name, behaviour in names.items()
    ]
    outcomes = compare_trainers(trainers, STEPS, 20.0, tmp_path / "logs", lambda what: None)
    return {outcome.trainer.name: outcome for outcome in outcomes}


def outcome(
    name: str, tokens_s: list[float], peak: int, losses: list[float], error: str | None = None
) -> TrainerOutcome:
    return TrainerOutcome(
        trainer=Trainer(name=name, command=("true",), env={}),
        tokens_s=tokens_s,
        peak_rss_bytes=peak,
        losses=losses,
        error=error,
    )


@pytest.mark.slow
def test_trainers_take_turns_after_a_warm_up_that_does_not_count(tmp_path: Path) -> None:
    found = compare({"a": "good", "b": "good"}, tmp_path)
    order = (tmp_path / "order").read_text().split("\n")[:-1]
    n = STEPS_PER_TURN
    assert order == ["a 1", "b 1", f"a {n}", f"b {n}", f"b {n}", f"a {n}"]
    assert found["a"].tokens_s == [2.0, 2.0]  # 4 tokens in 2 s, in either turn
    assert found["a"].losses == [0, 1, 2, 3, 4]
    assert found["a"].first_step_s == 2
    assert found["a"].versions == {"fake": "1"}
    assert found["a"].startup_s > 0
    assert found["a"].peak_rss_bytes > 1 << 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("ends", "it ended.*out of memory"),
        ("errs", "RuntimeError: no"),
        ("declines", "not these"),
        ("stops short", "made 0 steps where 1 were asked for"),
        ("ends at once", "it ended.*no such model"),
    ],
)
def test_a_trainer_that_fails_does_so_alone(behaviour: str, message: str, tmp_path: Path) -> None:
    found = compare({"bad": behaviour, "good": "good"}, tmp_path)
    error = found["bad"].error
    assert error is not None
    assert re.search(message, error, re.DOTALL), error
    assert found["bad"].tokens_s == []
    assert found["good"].error is None
    assert found["good"].tokens_s == [2.0, 2.0]


def test_no_trainers_is_no_outcome(tmp_path: Path) -> None:
    assert compare({}, tmp_path) == {}


def test_the_tokens_are_the_same_each_time_and_without_special_ones() -> None:
    steps = make_steps(1000, 3)
    assert steps == make_steps(1000, 3)
    assert make_steps(1000, 2) == steps[:2]  # more repetitions go on from the same steps
    assert np.array(steps).shape == (3, NUM_ROWS, ROW_LENGTH)
    assert steps[0] != steps[1]
    assert np.array(steps).min() >= 25
    assert np.array(steps).max() < 975


def test_every_trainer_begins_with_what_peft_draws() -> None:
    assert tuple(TARGETS) == LORA_TARGETS
    a = draw_a(3, "wk", 64, 16)
    assert (a.shape, a.dtype) == ((64, 16), np.float32)
    assert np.abs(a).max() <= 1 / 8
    assert np.std(a) == pytest.approx(1 / 8 / np.sqrt(3), rel=0.05)  # uniform
    np.testing.assert_array_equal(a, draw_a(3, "wk", 64, 16))
    assert not np.array_equal(a, draw_a(4, "wk", 64, 16))
    assert not np.array_equal(a, draw_a(3, "wv", 64, 16))


def test_flaxen_is_held_against_the_peer_that_makes_each_target_hardest() -> None:
    ours = outcome("flaxen-bf16", [30.0, 20.0], 3 * 10**9, [5.0, 4.0])
    fast = outcome("peft-f32", [20.0, 20.0], 4 * 10**9, [5.01, 4.0])
    small = outcome("peft-bf16", [2.0, 2.0], 2 * 10**9, [5.0, 4.1])
    broken = outcome("peft-f16", [90.0], 1, [9.0], error="it ended")
    speed, memory, losses = judge_trainers([ours, fast, small, broken])
    assert (speed.against, speed.reached, speed.wanted) == ("peft-f32", 1.25, 1.5)
    assert not speed.is_met
    assert (memory.against, memory.reached, memory.wanted) == ("peft-bf16", 3.0, 2.0)
    assert not memory.is_met
    assert losses.against == "peft-bf16"
    assert losses.reached == pytest.approx(0.1)
    assert not losses.is_met
    assert all(v.is_met for v in judge_trainers([ours, fast])[1:])
    assert judge_trainers([ours]) == []
    assert judge_trainers([fast, small]) == []


def test_the_table_and_the_figures_name_every_trainer() -> None:
    assert limit_shares([20.0], 10.0, LIMITS) == [0.25]
    done = outcome("flaxen-bf16", [30.0, 20.0], 3 << 29, [5.25, 4.0])
    broken = outcome("peft-f32", [], 0, [], error="it ended")
    console = Console(width=200)
    with console.capture() as captured:
        console.print(trainers_table([done, broken], 8.0, LIMITS))
    shown = captured.get()
    for text in ("25.0", "25%", "1.50", "5.250", "4.000", "peft-f32 failed"):
        assert text in shown, text
    figures = trainers_as_figures([done, broken], 8.0, LIMITS)
    assert figures["flaxen-bf16"]["tokens_s"]["median"] == 25
    assert figures["flaxen-bf16"]["limit_share"]["max"] == pytest.approx(0.3)
    assert figures["flaxen-bf16"]["losses"] == [5.25, 4.0]
    assert figures["peft-f32"]["error"] == "it ended"
    assert "tokens_s" not in figures["peft-f32"]


def test_every_trainer_can_be_described() -> None:
    place = Place(peers=Path("/peers"), num_threads=2)
    for model in MODELS:
        assert set(DEFAULTS[model]) <= set(NAMES)
        for name in NAMES:
            made = make_trainer(name, model, place)
            assert model in made.command[-2]
            assert '"threads": 2' in made.command[-1]
    with pytest.raises(ValueError, match="no trainer 'x': choose from flaxen-bf16"):
        make_trainer("x", MODELS[0], place)
