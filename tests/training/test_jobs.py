"""Fine-tuning jobs on a tiny model, and the arithmetic around them."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from flaxen.checkpoints.reading import read_extra
from flaxen.models.adapters import LoraConfig
from flaxen.training.jobs.plan import Hyperparameters, JobPlan, checkpoint_steps, make_plan
from flaxen.training.jobs.run import run_job
from flaxen.training.jobs.spec import (
    Base,
    JobCallbacks,
    JobSpec,
    adapter_directory,
    state_directory,
)
from flaxen.training.jobs.time_share import TimeShare
from flaxen.weights.adapters.peft import load_adapter
from tests.data.tiny_text import make_tokenizer
from tests.engine.tiny import PARAMS
from tests.training.tiny import MODEL

BASE = Base(model=MODEL, params=PARAMS, tokenizer=make_tokenizer(), name="tiny", max_length=96)
CHATS = [
    {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
    for q, a in [("one", "two"), ("three", "four"), ("five", "six"), ("seven", "eight")]
]
PAIRS = [
    {"prompt": "say ", "chosen": "yes", "rejected": "no"},
    {"prompt": "tell ", "chosen": "yes", "rejected": "never"},
    {"prompt": "write ", "chosen": "yes", "rejected": "not"},
]


@dataclass
class Told:
    """What a job said; stops it before what `stop_at` says."""

    stop_at: Callable[[Told], bool] = lambda told: False
    chosen: dict[str, float] = field(default_factory=dict)
    steps: list[tuple[int, int, Mapping[str, float], int]] = field(default_factory=list)
    checkpoints: list[tuple[int, Mapping[str, float], bool]] = field(default_factory=list)
    rests: list[float] = field(default_factory=list)

    def callbacks(self) -> JobCallbacks:
        return JobCallbacks(
            on_start=self.chosen.update,
            on_step=lambda *step: self.steps.append(step),
            on_checkpoint=lambda *checkpoint: self.checkpoints.append(checkpoint),
            should_stop=lambda: self.stop_at(self),
            rest=self.rests.append,
        )


def make_spec(directory: Path, records: list[Any], **changes: Any) -> JobSpec:
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "records.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    spec = JobSpec(
        method="supervised",
        training_file=file,
        validation_file=None,
        hyperparameters=Hyperparameters(n_epochs=3, batch_size=2, learning_rate_multiplier=50.0),
        lora=LoraConfig(rank=4, alpha=8.0),
        seed=3,
        directory=directory / "job",
    )
    return replace(spec, **changes)


def arrays(spec: JobSpec, step: int) -> list[np.ndarray]:
    adapter = load_adapter(adapter_directory(spec.directory, step), MODEL)
    return [each[part] for layer in adapter.layers for each in layer.values() for part in "ab"]


def test_a_job_learns_tells_and_leaves_adapters(tmp_path: Path) -> None:
    told = Told()
    spec = make_spec(tmp_path, CHATS)
    spec = replace(spec, validation_file=spec.training_file)
    assert run_job(spec, BASE, told.callbacks())
    assert told.chosen == {"n_epochs": 3, "batch_size": 2, "learning_rate_multiplier": 50.0}
    numbers = [step for step, _, _, _ in told.steps]
    num_steps = told.steps[0][1]
    assert numbers == list(range(1, num_steps + 1))
    losses = [metrics["train_loss"] for _, _, metrics, _ in told.steps]
    assert losses[-1] < losses[0] - 0.5
    assert all(0 <= m["train_mean_token_accuracy"] <= 1 for _, _, m, _ in told.steps)
    tokens = [count for _, _, _, count in told.steps]
    assert tokens == sorted(set(tokens))
    kept = checkpoint_steps(num_steps, 3)
    assert [(step, last) for step, _, last in told.checkpoints] == [
        (step, step == num_steps) for step in kept
    ]
    valid = [metrics["full_valid_loss"] for _, metrics, _ in told.checkpoints]
    assert valid[-1] < valid[0]
    assert len(arrays(spec, num_steps)) == 2 * 2 * 7
    # Once it is done, there is nothing to do, and nothing is told twice.
    again = Told()
    assert run_job(spec, BASE, again.callbacks())
    assert (again.steps, again.checkpoints) == ([], [])


def test_a_stopped_job_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = make_spec(tmp_path / "whole", CHATS)
    told = Told()
    assert run_job(whole, BASE, told.callbacks())
    num_steps = told.steps[0][1]
    assert num_steps >= 3

    parts = make_spec(tmp_path / "parts", CHATS)
    seen: list[int] = []
    for stop_after in (0, 1, 2, 99):  # the second call goes on from the first's state, and so on
        told = Told(lambda told, n=stop_after: len(told.steps) >= n)
        done = run_job(parts, BASE, told.callbacks())
        seen += [step for step, _, _, _ in told.steps]
        assert done == (stop_after == 99)
    assert seen == list(range(1, num_steps + 1))
    for mine, other in zip(arrays(parts, num_steps), arrays(whole, num_steps), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_a_stopped_job_does_not_go_on_with_something_else(tmp_path: Path) -> None:
    """For example on a server that restarted with another model or other limits."""
    spec = make_spec(tmp_path, CHATS)
    assert not run_job(spec, BASE, Told(lambda told: len(told.steps) >= 1).callbacks())
    directory = state_directory(spec.directory)
    before = read_extra(directory, 1)
    other = replace(BASE, params=jax.tree.map(lambda leaf: leaf + 0.01, PARAMS))
    shorter = replace(BASE, max_length=32)
    half = replace(BASE, params=jax.tree.map(lambda leaf: leaf.astype("bfloat16"), PARAMS))
    for changed, base, message in [
        (spec, other, r"^the job was stopped after step 1, and .* has changed: model was tiny \("),
        (spec, half, r"model was tiny \(.*, as float32\) and is now tiny \(.*, as bfloat16\)"),
        (spec, shorter, r"plan\.row_length was 64 and is now 32"),
        (replace(spec, lora=LoraConfig(rank=4, alpha=32.0)), BASE, r"alpha was 8\.0 and is now 32"),
        (replace(spec, seed=9), BASE, r"seed was 3 and is now 9\. Go on with .* create a new job"),
    ]:
        with pytest.raises(ValueError, match=message):
            run_job(changed, base, Told().callbacks())
        assert read_extra(directory, 1) == before
    assert run_job(spec, BASE, Told().callbacks())


def test_a_job_can_be_stopped_between_microbatches_and_in_validation(tmp_path: Path) -> None:
    spec = make_spec(
        tmp_path, CHATS * 8, hyperparameters=Hyperparameters(n_epochs=1, batch_size=32)
    )
    told = Told(lambda told: len(told.rests) == 1)
    assert not run_job(spec, BASE, told.callbacks())
    assert (told.steps, len(told.rests)) == ([], 1)

    spec = replace(spec, validation_file=spec.training_file, directory=tmp_path / "other")
    whole = Told()
    assert run_job(spec, BASE, whole.callbacks())
    spec = replace(spec, directory=tmp_path / "stopped")
    told = Told(lambda told: len(told.rests) == len(whole.rests) - 1)
    assert not run_job(spec, BASE, told.callbacks())
    assert told.checkpoints == []
    again = Told()
    assert run_job(spec, BASE, again.callbacks())
    assert again.checkpoints == whole.checkpoints


class Counting:
    """The tokenizer, and how often it was asked to write one of the records as tokens."""

    def __init__(self) -> None:
        self.num_encoded = 0

    def encode(self, text: str, **options: Any) -> list[int]:
        self.num_encoded += text.startswith("number ")
        return BASE.tokenizer.encode(text, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(BASE.tokenizer, name)


def test_a_job_writes_each_record_as_tokens_once(tmp_path: Path) -> None:
    tokenizer: Any = Counting()
    spec = make_spec(tmp_path, [{"text": f"number {i}"} for i in range(12)])
    (tmp_path / "valid.jsonl").write_text('{"text": "number one"}\n{"text": "number 2"}\n')
    spec = replace(spec, validation_file=tmp_path / "valid.jsonl")
    told = Told()
    assert run_job(spec, replace(BASE, tokenizer=tokenizer), told.callbacks())
    assert len(told.checkpoints) == 3
    assert tokenizer.num_encoded == 12 + 2


@pytest.mark.parametrize("stop_at", [1, 12, 13, 20, 24, 25, 40])
def test_a_job_stops_at_any_record_before_its_first_step(tmp_path: Path, stop_at: int) -> None:
    """12 records are read, then written as tokens, then packed for three epochs."""
    tokenizer: Any = Counting()
    spec = make_spec(tmp_path, [{"text": f"number {i}"} for i in range(12)])
    asked: list[None] = []

    def should_stop() -> bool:
        asked.append(None)
        return len(asked) >= stop_at

    callbacks = replace(Told().callbacks(), should_stop=should_stop)
    assert not run_job(spec, replace(BASE, tokenizer=tokenizer), callbacks)
    assert len(asked) == stop_at
    assert tokenizer.num_encoded == min(max(0, stop_at - 13), 12)


def test_a_full_disk_ends_a_job_before_it_writes(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, CHATS)
    callbacks = replace(Told().callbacks(), free_bytes=lambda path: 1000)
    with pytest.raises(OSError, match="bytes of a checkpoint are free") as caught:
        run_job(spec, BASE, callbacks)
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in spec.directory.iterdir()] == ["state"]
    assert run_job(spec, BASE, Told().callbacks())  # with room again


def test_it_rests_for_what_it_worked_but_not_for_compiling(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, CHATS * 4, hyperparameters=Hyperparameters(n_epochs=2, batch_size=8))
    told = Told()
    assert run_job(replace(spec, validation_file=spec.training_file), BASE, told.callbacks())
    assert told.rests[0] == 0  # the first microbatch
    assert told.rests.count(0) == 2  # and the first row of the validation
    assert len(told.rests) > 4
    assert all(rest >= 0 for rest in told.rests)


def test_dpo_tells_pairs_apart(tmp_path: Path) -> None:
    hyperparameters = Hyperparameters(
        n_epochs=6, batch_size=1, learning_rate_multiplier=100.0, beta=0.5
    )
    spec = make_spec(tmp_path, PAIRS, method="dpo", hyperparameters=hyperparameters)
    told = Told()
    assert run_job(spec, BASE, told.callbacks())
    assert told.chosen["beta"] == 0.5
    assert len(told.steps) == 6 * len(PAIRS)
    assert told.steps[0][2]["train_loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert told.steps[-1][2]["train_loss"] < 0.5
    assert told.steps[-1][2]["train_preference_accuracy"] == 1
    assert [step for step, _, _ in told.checkpoints] == [12, 15, 18]


@pytest.mark.parametrize(
    ("records", "method", "message"),
    [
        (PAIRS, "supervised", r"records.jsonl:1.*preference pair, which only DPO"),
        (CHATS, "dpo", r"records.jsonl:1.*DPO learns from nothing else"),
    ],
)
def test_records_that_do_not_fit_are_named(
    tmp_path: Path, records: list[Any], method: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run_job(make_spec(tmp_path, records, method=method), BASE, Told().callbacks())


@pytest.mark.parametrize(("method", "records"), [("supervised", CHATS), ("dpo", PAIRS)])
def test_a_token_that_the_model_does_not_know_is_named(
    tmp_path: Path, method: Any, records: list[Any]
) -> None:
    letters = [(a, b) for a in "abcdefgh" for b in "abcdefghijklmnopqrstuvwxyz"]
    merges = [*letters[: MODEL.vocab_size - 256], ("y", "e")]  # and the special tokens
    base = replace(BASE, tokenizer=make_tokenizer(merges=merges))
    with pytest.raises(
        ValueError,
        match=r"records.jsonl:1: the token '.*' has the id 30\d, outside the model's vocabulary of "
        f"{MODEL.vocab_size} tokens",
    ):
        run_job(make_spec(tmp_path, records, method=method), base, Told().callbacks())


def test_a_plan_leaves_nothing_open() -> None:
    def plan(**known: Any) -> JobPlan:
        known = {"learning_rate_multiplier": 1.0, "beta": None, **known}
        return JobPlan(**known)

    # 100 records of 64 tokens: ten of 8 records' 512 tokens fill two rows of 256.
    assert make_plan("supervised", Hyperparameters(), [64] * 100, max_length=2048) == plan(
        n_epochs=3, batch_size=8, row_length=256, rows_per_step=2
    )
    # A row of 256 would make one step of seven short records, where one was asked for.
    assert make_plan("supervised", Hyperparameters(), [34] * 10, max_length=2048) == plan(
        n_epochs=3, batch_size=1, row_length=64, rows_per_step=1
    )
    assert make_plan(
        "supervised", Hyperparameters(batch_size=1), [300, 10], max_length=2048
    ) == plan(n_epochs=3, batch_size=1, row_length=320, rows_per_step=1)
    assert make_plan(
        "dpo", Hyperparameters(n_epochs=1, batch_size=5), [70, 10], max_length=2048
    ) == plan(n_epochs=1, batch_size=5, row_length=128, rows_per_step=5, beta=0.1)
    assert make_plan("dpo", Hyperparameters(), [5000], max_length=100).row_length == 100


def test_checkpoints_are_at_the_ends_of_the_last_epochs() -> None:
    assert checkpoint_steps(10, 1) == [10]
    assert checkpoint_steps(10, 2) == [5, 10]
    assert checkpoint_steps(50, 5) == [30, 40, 50]
    assert checkpoint_steps(2, 50) == [1, 2]


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_the_trainer_rests_its_share_while_requests_run() -> None:
    clock = Clock()
    busy_until_s = float("inf")
    time_share = TimeShare(
        share=0.2, is_busy=lambda: clock() < busy_until_s, clock=clock, sleep=clock.sleep
    )
    time_share.rest(0.5, lambda: False)
    assert clock() == pytest.approx(102.0)  # a fifth: 0.5 of 2.5 seconds
    busy_until_s = 103.0
    time_share.rest(0.5, lambda: False)
    assert clock() == pytest.approx(103.0, abs=0.011)
    time_share.rest(0.5, lambda: False)  # idle: at once
    assert clock() == pytest.approx(103.0, abs=0.011)
    busy_until_s = float("inf")
    before_s = clock()
    time_share.rest(0.5, lambda: True)
    assert clock() == before_s


@pytest.mark.parametrize("share", [0, -1, 1.5])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"above 0 and at most 1, got {share}"):
        TimeShare(share=share, is_busy=lambda: True)
