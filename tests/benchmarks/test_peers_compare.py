"""The comparison of engines, on engines that are a few lines of Python."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.peers.compare import Outcome, Plan, compare
from benchmarks.peers.processes import Group
from tests.benchmarks.peers_fakes import batch, fake_engine, plan

pytestmark = pytest.mark.slow  # each test starts processes


def run(engines: list[tuple[str, str]], plan_: Plan, tmp_path: Path) -> dict[str, Outcome]:
    """Compares engines of these names and behaviours."""
    made = [fake_engine(name, tmp_path / "order", behaviour) for name, behaviour in engines]
    outcomes = compare(made, plan_, tmp_path / "logs", lambda what: None)
    return {outcome.engine.name: outcome for outcome in outcomes}


def test_engines_take_turns_and_another_one_begins_each_repetition(tmp_path: Path) -> None:
    run([("a", "good"), ("b", "good")], plan(batch(1), batch(2), batch(3)), tmp_path)
    order = (tmp_path / "order").read_text().split("\n")[:-1]
    assert order == ["a 9", "b 9", "a 1", "b 1", "b 2", "a 2", "a 3", "b 3"]


def test_figures_are_those_of_flaxen_bench(tmp_path: Path) -> None:
    engine = fake_engine("a", tmp_path / "order", seconds=2.0)
    [outcome] = compare([engine], plan(batch(4), batch(4)), tmp_path, lambda what: None)
    assert outcome.measured["W"].figures == {"output_tok_s": [6.0, 6.0]}  # 12 tokens in 2 s
    [outcome] = compare([engine], plan(batch(4, num_output=1)), tmp_path, lambda what: None)
    assert outcome.measured["W"].figures == {"prompt_tok_s": [4.0]}  # 8 tokens in 2 s
    assert outcome.versions == {"fake": "1"}
    assert outcome.peak_rss_bytes > 1 << 20


def test_one_stream_is_timed_without_its_prefill(tmp_path: Path) -> None:
    script = """
import json, sys
print(json.dumps({"ready": {}}), flush=True)
for line in sys.stdin:
    outs = json.loads(line)["num_outputs"]
    print(json.dumps({"wall_s": 1.5 + 0.5 * sum(outs), "num_tokens": sum(outs)}), flush=True)
"""
    engine = fake_engine("a", tmp_path / "order")
    engine = replace(engine, command=(sys.executable, "-c", script))
    plan_ = plan(batch(1, num_output=5, ttft_prompt=(7, 8)))
    [outcome] = compare([engine], plan_, tmp_path, lambda what: None)
    # 2 s to the first token, 4 s in all: the other 4 tokens took 2 s.
    assert outcome.measured["W"].figures == {"decode_tok_s": [2.0], "ttft_ms": [2000.0]}
    assert outcome.measured["W"].reps[0].compared_s == 2.0
    assert outcome.measured["W"].reps[0].is_decode_only


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("ends", "it ended.*out of luck"),
        ("errs", "RuntimeError: no"),
        ("hangs", "did not answer in time"),
        ("stops short", "generated 26 tokens where 27 were asked"),
        ("talks", "b'hello', which is not JSON"),
        ("never ready", "did not answer in time"),
        ("not ready", r"its first line was \{\}"),
        ("ends at once", "it ended.*no such model"),
    ],
)
def test_an_engine_that_fails_does_so_alone(behaviour: str, message: str, tmp_path: Path) -> None:
    is_late = behaviour in ("hangs", "never ready")
    plan_ = plan(
        batch(1), batch(2), run_timeout_s=6.0 if is_late else 20.0,
        startup_timeout_s=6.0 if is_late else 20.0,
    )  # fmt: skip
    outcomes = run([("bad", behaviour), ("good", "good")], plan_, tmp_path)
    error = outcomes["bad"].error
    assert error is not None
    assert re.search(message, error, re.DOTALL), error
    assert outcomes["bad"].measured == {}
    assert outcomes["good"].error is None
    assert outcomes["good"].measured["W"].figures == {"output_tok_s": [3.0, 6.0]}


def test_an_engine_that_is_not_installed_fails_alone(tmp_path: Path) -> None:
    engine = fake_engine("a", tmp_path / "order")
    missing = replace(engine, name="b", command=("/nowhere/python",))
    [first, second] = compare([missing, engine], plan(batch(1)), tmp_path, lambda what: None)
    assert first.error is not None
    assert "can't be started" in first.error
    assert second.measured["W"].speeds == [3.0]


def test_what_an_engine_declines_leaves_it_running(tmp_path: Path) -> None:
    outcomes = run([("a", "declines"), ("b", "good")], plan(batch(1)), tmp_path)
    assert outcomes["a"].error is None
    assert outcomes["a"].measured == {}
    assert outcomes["b"].measured["W"].speeds == [3.0]


def test_no_engines_is_no_outcome(tmp_path: Path) -> None:
    assert compare([], plan(batch(1)), tmp_path, lambda what: None) == []


def test_a_plan_refuses_what_it_can_not_run() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        plan()
    with pytest.raises(ValueError, match="no workload 'X': choose from W, warmup"):
        replace(plan(batch(1)), names=("X",))


def state(pid: int) -> str:
    """A letter, as proc(5) has it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "gone"


def test_a_paused_group_rests_with_its_children_and_ends_whole(tmp_path: Path) -> None:
    child = "import time; time.sleep(600)"
    script = f"""
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", {child!r}])
print(child.pid, flush=True)
while True:
    pass
"""
    group = Group((sys.executable, "-c", script), {}, tmp_path / "log", talks=True)
    try:
        assert group.process.stdout is not None
        child_pid = int(group.process.stdout.readline())
        group.pause()
        while {state(group.process.pid), state(child_pid)} != {"T"}:
            time.sleep(0.01)
        group.resume()
        while state(group.process.pid) != "R":
            time.sleep(0.01)
        assert not group.has_ended
    finally:
        group.end(grace_s=0.2)
    assert group.has_ended
    until = time.monotonic() + 10  # a killed process may have to wait for a core to end
    while state(child_pid) not in ("gone", "Z"):
        assert time.monotonic() < until
        time.sleep(0.01)
