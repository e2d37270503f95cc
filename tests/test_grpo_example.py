"""examples/grpo.py: its reward by hand, and the whole of it on a tiny model that knows nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from examples.grpo import QUESTIONS, batches, main, reward
from flaxen.kernels.backend import Backend
from flaxen.kernels.choice import choose_backend
from flaxen.training.rollouts import SampledCompletion
from tests.e2e.tiny_model import write_tiny_model


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Paris", 1), ("It is Paris.", 1 / 3), ("Rome", 0), ("", 0), (" Paris\n", 1)],
)
def test_the_reward_is_of_the_fewest_words(text: str, expected: float) -> None:
    assert reward(QUESTIONS[0], SampledCompletion([1], [2], [-1.0], text)) == expected


def test_each_question_is_asked_before_one_comes_again() -> None:
    asked = [question for batch in batches(8, 4, seed=1) for question in batch]
    assert set(asked[:16]) == set(asked[16:]) == set(QUESTIONS[:16])
    assert asked[:16] != asked[16:]


@pytest.mark.slow  # it compiles every shape of a step
def test_the_whole_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    options = ["--rounds", "3", "--prompts", "2", "--group-size", "2", "--kl-beta", "0.1"]
    monkeypatch.setattr(sys, "argv", ["grpo.py", "--model", str(model), *options])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert [line[:8] for line in lines[:-1]] == ["before: ", *["round   "] * 3, "after: h"]
    figures = json.loads(lines[-1])
    assert len(figures["rewards"]) == len(figures["tokens_sampled"]) == 3
    assert min(figures["tokens_sampled"]) > 0
    if choose_backend() is Backend.CPU:
        assert figures["off_policy"] == [0, 0, 0]
