"""Training killed at random moments, again and again, ends where an uninterrupted run ends."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from flaxen.weights.train_checkpoint import steps_in
from tests.e2e.resume_worker import NUM_STEPS

NUM_KILLS = 10
SEED = 4
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A hundred lines of different lengths."""
    rng = random.Random(0)
    lines = [{"text": "".join(rng.choices("abcdef ", k=rng.randint(5, 60)))} for _ in range(100)]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@contextmanager
def training(*paths: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.resume_worker", *map(str, paths)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_step(process: subprocess.Popen[str]) -> int | None:
    """The number of the next step, or None at the end of the run."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"the process ended with {process.wait()}"
    return None if line == "done\n" else int(line.removeprefix("step "))


@pytest.mark.slow
def test_killed_at_ten_random_points_it_reaches_the_same_bits(
    tmp_path: Path, data: Path, compile_cache: Path
) -> None:
    whole = tmp_path / "whole.npz"
    with training(data, tmp_path / "whole", compile_cache, whole) as process:
        steps = list(iter(lambda: read_step(process), None))
    assert steps == list(range(1, NUM_STEPS + 1))

    rng = random.Random(SEED)
    # A checkpoint is written while the next step is made: most kills fall into one. A process gets
    # a few steps further before its kill arrives.
    kills = sorted(rng.sample(range(2, NUM_STEPS - 20), NUM_KILLS))
    directory, killed = tmp_path / "killed", tmp_path / "killed.npz"
    num_unfinished, before = 0, 0
    for kill in kills:
        complete = steps_in(directory)
        with training(data, directory, compile_cache, killed) as process:
            first = step = read_step(process)
            # From the last complete checkpoint on; the one before a printed step's is complete.
            assert first == (complete[-1] if complete else 0) + 1
            assert first >= before - 1
            while step is not None and step < kill:
                step = read_step(process)
            time.sleep(rng.random() * 0.05)
            process.kill()  # SIGKILL
            assert process.wait() == -9
        before = kill
        num_unfinished += any("tmp" in entry.name for entry in directory.iterdir())
    print(f"{num_unfinished} of {NUM_KILLS} kills left an unfinished checkpoint")
    assert num_unfinished > 0

    with training(data, directory, compile_cache, killed) as process:
        while read_step(process) is not None:
            pass
    assert all(entry.name.isdigit() for entry in directory.iterdir())
    assert steps_in(directory) == [NUM_STEPS - 1, NUM_STEPS]
    with np.load(whole) as expected, np.load(killed) as found:
        assert sorted(found) == sorted(expected)
        assert len(expected) > 30
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
