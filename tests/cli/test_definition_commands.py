"""Every command takes FILE.py:NAME, and `flaxen train` writes what the others read again."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import pytest

import flaxen
from flaxen.cli.main import main
from flaxen.cli.train.command import told_apart
from flaxen.definitions.user_definition import find_definition
from flaxen.kernels.backend import Backend
from flaxen.weights.adapters.peft import load_adapter
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
    assert said == f"{written}: 4 steps of training\n"
    before = perplexity(capsys, model, "--data", texts)
    after = perplexity(capsys, written, "--data", texts)
    assert after < 0.7 * before
    assert perplexity(capsys, tmp_path / "o", "--data", texts, "--definition", model) == after
    prompt = ("--prompt", "the quick", "--max-tokens", 3, "--max-num-seqs", 2)
    outputs = [run(capsys, "generate", each, *prompt) for each in (model, written)]
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
    adapted = tmp_path / "o" / "adapter"
    after = perplexity(capsys, model, "--data", texts, "--adapter", adapted)
    assert after < before
    # Merged it is a directory like those of flaxen train, whose code is found by its signed name.
    merged = tmp_path / "merged"
    assert main(["merge", model, "--adapter", str(adapted), "--output-dir", str(merged)]) == 0
    assert f"wrote {merged} (float32, " in capsys.readouterr().out
    assert perplexity(capsys, merged, "--data", texts) == pytest.approx(after, rel=1e-4)
    again = tmp_path / "again"
    more = ["--definition", model, "--dtype", "bfloat16"]
    assert main(["merge", str(merged), "--adapter", str(adapted), "-o", str(again), *more]) == 0
    wrong = ["merge", model, "--adapter", str(adapted), "-o", str(tmp_path / "wrong")]
    assert main([*wrong, "--dtype", "int8"]) == 2
    assert "dtype int8 is not supported: use float32" in capsys.readouterr().err
    assert main([*wrong, "--definition", model]) == 2
    assert "names the code of a directory that flaxen train wrote" in capsys.readouterr().err
    assert main(["export", str(merged), str(tmp_path / "m.gguf")]) == 2
    assert "is a definition, whose architecture no published format names" in (
        capsys.readouterr().err
    )


def test_parity_cuts_its_own_prompts(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, "parity", model, "--max-tokens", 5, "--json"))
    assert found["num_differing"] == 0
    assert found["ways"][0]["num_tokens"] == 6 * (MAX_POSITION - 5 - 1)


def test_bench_cuts_its_workloads(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "bench", model, "--reps", 1, "-w", "A", "-w", "E", "--max-num-seqs", 4)
    found = json.loads(out.splitlines()[-1])
    assert list(found["workloads"]) == ["A", "E"]
    assert "cut to 19% for the model's 48 tokens" in found["workloads"]["A"]["description"]


def test_from_scratch_a_definition_begins_as_its_code_says(
    model: str, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = ["--data", texts, "--method", "full"]
    scores = []
    for name, more in (("as_it_is", ()), ("scratch", ("--from-scratch",))):
        train(capsys, model, *full, *more, "--output-dir", tmp_path / name)
        scores.append((tmp_path / name / "model" / "model.safetensors").read_bytes())
    assert scores[0] == scores[1]
    sizes = ["--sequence-length", MAX_POSITION, "--output-dir", tmp_path / "again"]
    trained = tmp_path / "scratch" / "model"
    arguments = ["train", trained, *full, *sizes, "--from-scratch"]
    assert main([*map(str, arguments)]) == 2
    assert "give the code as the model, FILE.py:NAME" in capsys.readouterr().err


def test_the_code_of_a_model_in_files_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", "smollm2-135m", "--prompt", "x", "--definition", "a.py:make"]
    assert main(arguments) == 2
    assert "names the code of a directory that flaxen train wrote" in capsys.readouterr().err


def test_impl_means_nothing_to_a_definition(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", model, "--prompt", "x", "--impl", "torch"]) == 2
    assert "is a definition of your own: leave --impl out" in capsys.readouterr().err


def test_load_takes_a_definition(model: str) -> None:
    definition = find_definition(model)
    assert definition is not None
    found, params = flaxen.load(definition, dtype="bfloat16")
    assert found == definition.model.on(Backend.REFERENCE)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jax.numpy.dtype("bfloat16")}


def test_the_argument_of_train_is_settings_or_a_model(tmp_path: Path) -> None:
    settings = tmp_path / "run"
    settings.write_text("model: x\n")
    assert told_apart([], "m") == (None, "m")
    assert told_apart(["none.yaml"], "m") == (Path("none.yaml"), "m")
    assert told_apart([str(settings)], None) == (settings, None)
    assert told_apart(["mini.py:make"], None) == (None, "mini.py:make")
    with pytest.raises(ValueError, match="both name a model"):
        told_apart(["mini.py:make"], "smollm2-135m")
