"""Every command takes FILE.py:NAME, and `flaxen train` writes what the others read again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import flaxen
from flaxen.cli.definitions import find_definition
from flaxen.cli.main import main
from flaxen.cli.train.command import told_apart
from flaxen.kernels.backend import Backend
from flaxen.weights.adapters.peft import load_adapter
from flaxen.weights.definition_files import FILE, load_trained, save_trained
from tests.cli.tiny_definition import MAX_POSITION, write_definition
from tests.compile_cache import shared_directory

TEXT = "the quick brown fox jumps over the lazy dog"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_definition(tmp_path_factory.mktemp("definition"))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": TEXT}) for _ in range(8)))
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    cache = ["--compile-cache", str(shared_directory())]
    assert main([*map(str, arguments), *cache]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def perplexity(capsys: pytest.CaptureFixture[str], *arguments: object) -> float:
    result: float = json.loads(run(capsys, "eval", *arguments, "--json"))["perplexity"]
    return result


def train(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    sizes = ["--batch-size", 4, "--sequence-length", MAX_POSITION, "--peak-flops", 1e9]
    rate = ["--learning-rate", 0.01, "--set", "schedule.name=constant"]
    return run(capsys, "train", *arguments, *sizes, *rate, "--num-steps", 4)


def test_all_parameters_are_trained_and_read_again(
    model: str, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = train(capsys, model, "--data", texts, "--method", "full", "--output-dir", tmp_path / "o")
    written = tmp_path / "o" / "model"
    assert f"no Hugging Face format: flaxen serve {model} --checkpoint {written}" in said
    before = perplexity(capsys, model, "--data", texts)
    after = perplexity(capsys, model, "--data", texts, "--checkpoint", written)
    assert after < 0.7 * before
    prompt = ("--prompt", "the quick", "--max-tokens", 3, "--max-num-seqs", 2)
    outputs = [
        run(capsys, "generate", model, *prompt, *more) for more in ((), ("--checkpoint", written))
    ]
    assert outputs[0] != outputs[1]


def test_an_adapter_is_trained_and_scored(
    model: str, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By settings in a file, as the issue has it."""
    config = tmp_path / "run.yaml"
    config.write_text(f"model: {model}\nmethod: lora\noutput_dir: {tmp_path / 'o'}\n")
    train(capsys, config, "--data", texts, "--rank", 4)
    definition = find_definition(model)
    assert definition is not None
    adapter = load_adapter(tmp_path / "o" / "adapter", definition.model)
    assert "['layers'][1]['down']" in adapter.config.targets
    before = perplexity(capsys, model, "--data", texts)
    after = perplexity(capsys, model, "--data", texts, "--adapter", tmp_path / "o" / "adapter")
    assert after < before


def test_parity_cuts_its_own_prompts(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, "parity", model, "--max-tokens", 5, "--json"))
    assert found["num_differing"] == 0
    assert found["ways"][0]["num_tokens"] == 6 * (MAX_POSITION - 5 - 1)


def test_bench_cuts_its_workloads(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "bench", model, "--reps", 1, "-w", "A", "-w", "E", "--max-num-seqs", 4)
    found = json.loads(out.splitlines()[-1])
    assert list(found["workloads"]) == ["A", "E"]
    assert "cut to 19% for the model's 48 tokens" in found["workloads"]["A"]["description"]


def test_from_scratch_means_nothing_to_a_definition(
    model: str, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--data", texts, "--output-dir", tmp_path, "--method", "full", "--from-scratch"]
    sizes = ["--sequence-length", MAX_POSITION]
    assert main([*map(str, ["train", model, *more, *sizes])]) == 2
    assert "gives its own first parameters" in capsys.readouterr().err


def test_a_checkpoint_is_of_a_definition(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["generate", "smollm2-135m", "--prompt", "x", "--checkpoint", str(tmp_path)]
    assert main(arguments) == 2
    assert "--checkpoint is for definitions" in capsys.readouterr().err


def changed(tree: Any, change: str) -> Any:
    if change == "lacks":
        return {name: leaf for name, leaf in tree.items() if name != "places"}
    if change == "more":
        return {**tree, "other": tree["places"]}
    return {**tree, "places": tree["places"][:3]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("lacks", r"the file lacks \['places'\]. Give the definition that was trained"),
        ("more", r"the definition has no \['other'\]"),
        ("shape", r"\['places'\] has the shape \[3, 32\] .* in the definition \[48, 32\]"),
    ],
)
def test_parameters_of_another_definition_are_refused(
    model: str, tmp_path: Path, change: str, message: str
) -> None:
    definition = find_definition(model)
    assert definition is not None
    params = changed(definition.params, change)
    save_trained(tmp_path / "m", definition, params, None, np.dtype("float32"))
    with pytest.raises(ValueError, match=message):
        load_trained(tmp_path / "m", definition)


def test_damaged_and_missing_files_are_refused(model: str, tmp_path: Path) -> None:
    definition = find_definition(model)
    assert definition is not None
    with pytest.raises(ValueError, match=f"holds no {FILE}: give the directory `model`"):
        load_trained(tmp_path, definition)
    (tmp_path / FILE).write_bytes(b"no safetensors")
    with pytest.raises(ValueError, match="can't be read"):
        load_trained(tmp_path, definition)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_written_is_read_back(model: str, tmp_path: Path, dtype: str) -> None:
    definition = find_definition(model)
    assert definition is not None
    params = jax.tree.map(lambda leaf: leaf + 1, definition.params)
    save_trained(tmp_path / "m", definition, params, None, jax.numpy.dtype(dtype))
    loaded = load_trained(tmp_path / "m", definition)
    assert loaded.dtype == dtype
    for ours, theirs in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(ours, theirs.astype(dtype))


def test_other_collections_keep_their_own_dtype(model: str, tmp_path: Path) -> None:
    definition = find_definition(model)
    assert definition is not None
    stats = {"mean": np.full(3, 1 / 3, np.float32), "count": np.array([7], np.int32)}
    params = {"params": definition.params, "batch_stats": stats}
    in_collections = dataclasses.replace(
        definition, model=dataclasses.replace(definition.model, trained="params"), params=params
    )
    bfloat16 = jax.numpy.dtype("bfloat16")
    rest = {"batch_stats": stats}
    save_trained(tmp_path / "m", in_collections, definition.params, rest, bfloat16)
    loaded = load_trained(tmp_path / "m", in_collections)
    assert loaded.dtype == bfloat16
    for name, leaf in stats.items():
        np.testing.assert_array_equal(loaded.params["batch_stats"][name], leaf)
        assert loaded.params["batch_stats"][name].dtype == leaf.dtype


def test_load_takes_a_definition(model: str) -> None:
    definition = find_definition(model)
    assert definition is not None
    found, params = flaxen.load(definition, dtype="bfloat16")
    assert found == definition.model.on(Backend.REFERENCE)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jax.numpy.dtype("bfloat16")}


def test_the_argument_of_train_is_settings_or_a_model(tmp_path: Path) -> None:
    settings = tmp_path / "run"
    settings.write_text("model: x\n")
    assert told_apart(None, "m") == (None, "m")
    assert told_apart("none.yaml", "m") == (Path("none.yaml"), "m")
    assert told_apart(str(settings), None) == (settings, None)
    assert told_apart("mini.py:make", None) == (None, "mini.py:make")
    with pytest.raises(ValueError, match="both name a model"):
        told_apart("mini.py:make", "smollm2-135m")
