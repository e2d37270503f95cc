"""The workloads' shapes, and the JSON they are exchanged in."""

import json
from pathlib import Path

import pytest

from benchmarks.workloads import dump_workloads
from flaxen.benchmark.workloads import (
    NAMES,
    RequestBatch,
    check_fit,
    load_workloads,
    make_workloads,
    num_fresh_prompt_tokens,
)

VOCAB_SIZE = 49_152


@pytest.mark.parametrize(
    ("name", "num_requests", "num_in", "num_out"),
    [("A", 1, 128, 128), ("B16", 16, 128, 128), ("B64", 64, 128, 128), ("C", 1, 1024, 1),
     ("E", 32, 544, 32)],
)  # fmt: skip
def test_shape(name: str, num_requests: int, num_in: int, num_out: int) -> None:
    batches = make_workloads(VOCAB_SIZE, 3)[name].batches
    assert len(batches) == 3
    for batch in batches:
        assert [len(prompt) for prompt in batch.prompts] == [num_in] * num_requests
        assert batch.num_outputs == (num_out,) * num_requests
        assert (batch.ttft_prompt is not None) == (name == "A")


def test_mixed_lengths_are_in_range_and_the_same_in_each_repetition() -> None:
    first, second = make_workloads(VOCAB_SIZE, 2)["D"].batches
    lengths = [len(prompt) for prompt in first.prompts]
    assert len(lengths) == 64
    assert 16 <= min(lengths) < 64 < 450 < max(lengths) <= 512
    assert 16 <= min(first.num_outputs) < 48 < 220 < max(first.num_outputs) <= 256
    assert lengths == [len(prompt) for prompt in second.prompts]
    assert first.num_outputs == second.num_outputs
    assert first.prompts != second.prompts


def test_tokens_are_fresh_in_each_repetition_and_the_same_in_each_run() -> None:
    made, again = make_workloads(VOCAB_SIZE, 3), make_workloads(VOCAB_SIZE, 3)
    assert made == again
    assert make_workloads(VOCAB_SIZE, 3, seed=1) != made
    prompts = [prompt for w in made.values() for batch in w.batches for prompt in batch.prompts]
    assert len(set(prompts)) == len(prompts)
    ids = {token for prompt in prompts for token in prompt}
    assert 1000 < min(ids) < max(ids) < VOCAB_SIZE - 1000


def test_only_e_shares_a_prefix() -> None:
    workloads = make_workloads(VOCAB_SIZE, 1)
    for name in NAMES:
        prompts = workloads[name].batches[0].prompts
        saved = sum(map(len, prompts)) - num_fresh_prompt_tokens(prompts)
        assert saved == (31 * 512 if name == "E" else 0)


def test_a_prompt_that_is_all_prefix_is_counted() -> None:
    assert num_fresh_prompt_tokens([(1, 2, 3), (1, 2), (1, 2, 4)]) == 8 - 2 * 2


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    workloads = make_workloads(VOCAB_SIZE, 2)
    path = tmp_path / "workloads.json"
    path.write_text(dump_workloads(workloads))
    assert load_workloads(path, 2) == workloads


def test_too_few_repetitions_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "workloads.json"
    path.write_text(dump_workloads(make_workloads(VOCAB_SIZE, 2)))
    with pytest.raises(ValueError, match=r"has 2 repetitions, and 3 are asked for: lower --reps"):
        load_workloads(path, 3)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"workloads": {"A": {"reps": []}}}',
        '{"workloads": {"A": {"desc": "", "reps": [{"prompts": [["x"]], "out": [1]}]}}}',
        '{"workloads": {"A": {"desc": "", "reps": [{"prompts": [[1]], "out": [1, 2]}]}}}',
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "workloads.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"does not hold workloads \(.*it must be JSON of the"):
        load_workloads(path, 1)


@pytest.mark.parametrize(
    ("prompts", "num_outputs", "message"),
    [
        ((), (), "one output length for each of its prompts, got 0 prompts and 0"),
        (((1,),), (1, 2), "one output length for each of its prompts, got 1 prompts and 2"),
        (((),), (1,), "at least one token in and one out"),
        (((1,),), (0,), "at least one token in and one out"),
    ],
)
def test_a_batch_that_can_not_run_is_refused(
    prompts: tuple[tuple[int, ...], ...], num_outputs: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        RequestBatch(prompts=prompts, num_outputs=num_outputs)


def test_no_repetition_is_refused() -> None:
    with pytest.raises(ValueError, match=r"repetitions must be at least 1, got 0"):
        make_workloads(VOCAB_SIZE, 0)


def test_the_json_says_how_to_sample() -> None:
    document = json.loads(dump_workloads(make_workloads(VOCAB_SIZE, 1)))
    assert document["greedy"] is True
    assert document["ignore_eos"] is True


@pytest.mark.parametrize("max_len", [18, 48, 200, 1024])
def test_workloads_are_cut_to_the_models_room(max_len: int) -> None:
    made, whole = make_workloads(VOCAB_SIZE, 1, max_len=max_len), make_workloads(VOCAB_SIZE, 1)
    for name, workload in made.items():
        check_fit(workload, max_len)
        needs = {"warmup": 144, "C": 1025, "D": 768, "E": 576}.get(name, 256)
        if needs <= max_len:
            assert workload == whole[name]
        else:
            assert workload.description.endswith(f"for the model's {max_len} tokens")
            (batch,) = workload.batches
            assert len(batch.prompts) == len(whole[name].batches[0].prompts)


def test_a_model_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match=r"takes 17 tokens, and .* needs at least 18"):
        make_workloads(VOCAB_SIZE, 1, max_len=17)


def test_a_file_with_requests_that_are_too_long_is_refused() -> None:
    workload = make_workloads(VOCAB_SIZE, 1)["A"]
    with pytest.raises(ValueError, match=r"workload A has a request of 256 tokens.* takes 255"):
        check_fit(workload, 255)
