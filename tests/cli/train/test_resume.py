"""What a saved run may go on with, and what it refuses by name. Nothing is compiled for that."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from flaxen.checkpoints.checkpoints import Checkpoints
from flaxen.checkpoints.reading import read_extra
from tests.cli.train.tiny_training import train, write_model, write_texts
from tests.compile_cache import shared_directory
from tests.weights.files import change_config

OPTIONS = ("--dtype", "float32", "--learning-rate", 0.01, "--rank", 4, "--seed", 3)


class Saved:
    """A run of two steps, with a copy of its model and data."""

    def __init__(self, directory: Path, original: Saved | None = None) -> None:
        self.model, self.data = directory / "llama", directory / "texts.jsonl"
        self.output, self.cache = directory / "out", shared_directory()
        if original is None:
            write_model(self.model)
            write_texts(self.data)
            assert train(self.model, self.data, self.output, self.cache, *OPTIONS,
                         "--num-steps", 2) == 0  # fmt: skip
            return
        for name in ("llama", "texts.jsonl", "out"):
            source = original.model.parent / name
            copy: Any = shutil.copytree if source.is_dir() else shutil.copyfile
            copy(source, directory / name)

    def resume(self, *arguments: object, num_steps: int = 2) -> int:
        steps = ("--num-steps", num_steps, "--resume")
        return train(self.model, self.data, self.output, self.cache, *OPTIONS, *steps, *arguments)

    def contents(self) -> dict[str, bytes]:
        """All files of the run."""
        files = sorted(path for path in self.output.rglob("*") if path.is_file())
        return {str(path.relative_to(self.output)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(tmp_path_factory.mktemp("original"))


@pytest.fixture
def saved(original: Saved, tmp_path: Path) -> Saved:
    return Saved(tmp_path, original)


def assert_refused(saved: Saved, capsys: Any, message: str, *arguments: object) -> None:
    """And nothing of the run is touched."""
    before = saved.contents()
    assert saved.resume(*arguments, num_steps=4) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "holds a run of 2 steps, and what its state depends on has changed: " in error
    assert re.search(message, error), error
    assert "Go on with what it began with, or give another output_dir to begin anew" in error
    assert saved.contents() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "lora.alpha=128"], r"changed: lora\.alpha was 32\.0 and is now 128\.0\. Go on"),
        (["--set", "lora.use_rslora=true"], r"lora\.use_rslora was false and is now true\."),
        (["--rank", 8], r"changed: lora\.rank was 4 and is now 8\."),
        (["--set", "lora.targets=[wq]"], r'lora\.targets was \["wq", .*\] and is now \["wq"\]\.'),
        (["--set", "lora.dropout=0.5"], r"lora\.dropout was 0\.0 and is now 0\.5\."),
        (["--set", "lora.seeds=[1]"], r"lora\.seeds was \[\] and is now \[1\]\."),
        (["--set", "lora.base_quantization=int8"], r'base_quantization was "auto" and is now "int'),
        (["--dtype", "bfloat16"], r"changed: dtype was float32 and is now bfloat16\."),
        (["--seed", 4], r"data\.seed was 3 and is now 4; seed was 3 and is now 4\."),
        (["--learning-rate", 0.02], r"optimizer\.learning_rate was 0\.01 and is now 0\.02\."),
        (["--set", "optimizer.name=lion"], r'optimizer\.name was "adamw" and is now "lion"\.'),
        (["--set", "optimizer.weight_decay=0.1"], r"optimizer\.weight_decay was 0\.0 and is now"),
        (["--set", "schedule.name=linear"], r'schedule\.name was "constant" and is now "linear"\.'),
        (["--set", "schedule.warmup_steps=1"], r"schedule\.warmup_steps was 0 and is now 1\."),
        (["--batch-size", 4], r"data\.batch_size was 2 and is now 4\."),
        (["--num-microbatches", 2], r"num_microbatches was 1 and is now 2\."),
        (["--sequence-length", 32], r"data\.sequence_length was 24 and is now 32\."),
        (["--set", "data.max_segments=1"], r"data\.max_segments was 32 and is now 1\."),
        (["--set", "data.shuffle=false"], r"data\.shuffle was true and is now false\."),
        (["--method", "dpo", "--set", "dpo.beta=0.5"], "holds"),
        (["--method", "full", "--set", "lora.rank=16"], r'method was "lora" and is now "full"'),
    ],
)
def test_a_changed_setting_is_refused_by_name(
    saved: Saved, capsys: Any, arguments: list[object], message: str
) -> None:
    if "dpo" in arguments:
        pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
        saved.data.write_text(json.dumps(pair))
        message = r'dpo\.beta was 0\.1 and is now 0\.5.*method|method was "lora" and is now "dpo"'
    assert_refused(saved, capsys, message, *arguments)


def another_fine_tune(saved: Saved) -> None:
    """One tensor differs, in all of its values."""
    path = saved.model / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = tensors[name] + 0.01
    save_file(tensors, path)


def another_template(saved: Saved) -> None:
    path = saved.model / "tokenizer_config.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "chat_template": "{{ messages[0].content }}"}))


def another_record(saved: Saved) -> None:
    saved.data.write_text(saved.data.read_text().replace("owl", "fox"))


WEIGHTS = r"model was llama \(weights [0-9a-f]{16}\) and is now llama \(weights [0-9a-f]{16}\)\."
FILES = r"data\.files was texts\.jsonl \(contents [0-9a-f]{8}\) and is now texts\.jsonl \(contents "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (another_fine_tune, WEIGHTS),
        (
            lambda saved: change_config(saved.model, rms_norm_eps=0.1),
            r"final_norm\.eps was .* is now 0.1",
        ),
        (another_template, r'model\.chat_template was "[0-9a-f]{16}" and is now "[0-9a-f]{16}"\.'),
        (another_record, FILES),
    ],
)
def test_another_model_or_other_data_are_refused_by_name(
    saved: Saved, capsys: Any, change: Callable[[Saved], None], message: str
) -> None:
    change(saved)
    assert_refused(saved, capsys, message)


def test_the_order_of_files_is_theirs(saved: Saved, capsys: Any) -> None:
    second = write_texts(saved.data.with_name("more.jsonl"))
    assert_refused(
        saved,
        capsys,
        r"data\.files was texts.jsonl \(.*\) and is now texts.jsonl \(.*\), more.jsonl \(",
        "--data",
        second,
    )


def test_where_things_lie_and_when_they_are_saved_may_change(saved: Saved, capsys: Any) -> None:
    """Everything that the state does not depend on may change."""
    for name in ("model", "data"):
        path = getattr(saved, name)
        setattr(saved, name, path.rename(path.with_name(f"moved-{path.name}")))
    saved.output = saved.output.rename(saved.output.with_name("moved"))
    others = ("--set", "checkpoint.every=7", "--set", "checkpoint.keep=1", "--set", "remat=layer")
    assert saved.resume(*others, "--set", "data.epochs=9") == 0
    assert "2 steps of training, all made before: nothing was left" in capsys.readouterr().out


def test_a_state_without_a_note_of_what_it_depends_on_is_refused(saved: Saved, capsys: Any) -> None:
    directory = saved.output / "checkpoints"
    extra = read_extra(directory, 2)
    assert set(extra) == {"data", "run"}
    shutil.rmtree(directory)
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(2, {}, extra["data"])  # as earlier versions did
    before = saved.contents()
    assert saved.resume() == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "saved by an earlier version of flaxen that did not note what its state" in error
    assert saved.contents() == before


def test_results_of_others_are_not_replaced(saved: Saved, capsys: Any, tmp_path: Path) -> None:
    mine = saved.output / "adapter" / "thesis.docx"
    mine.write_text("mine")
    assert saved.resume(num_steps=4) == 2
    assert "adapter holds thesis.docx, which this run did not write" in capsys.readouterr().err
    assert mine.read_text() == "mine"
    shutil.rmtree(saved.output / "checkpoints")
    assert saved.resume(num_steps=4) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "adapter is there already, and" in error
    assert "holds no state of a run that made it: move it away" in error


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "results.json"])
@pytest.mark.parametrize("content", ['{"model": "x"}', "[1]", "cut"])
def test_files_of_others_are_not_written_over(
    original: Saved, tmp_path: Path, capsys: Any, name: str, content: str
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / name).write_text(content)
    assert train(original.model, original.data, output, original.cache, "--num-steps", 1) == 2
    assert f"holds a {name} that no training run wrote, and" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in output.iterdir()] == [(name, content)]


def test_a_directory_that_can_not_be_made_is_refused_before_the_model_is_opened(
    original: Saved, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "file").write_text("mine")
    output = tmp_path / "file" / "out"
    assert train(tmp_path / "no model", original.data, output, original.cache) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert f"can't be written, because {tmp_path / 'file'} is a file: give another one" in error


def test_a_models_own_directory_is_no_output_directory(original: Saved, capsys: Any) -> None:
    model = original.model
    before = (model / "config.json").read_bytes()
    assert train(model, original.data, model, original.cache, "--num-steps", 1) == 2
    assert "holds a config.json that no training run wrote" in capsys.readouterr().err
    assert (model / "config.json").read_bytes() == before


def test_results_that_a_killed_process_did_not_finish_are_written_again(
    saved: Saved, capsys: Any
) -> None:
    adapter = saved.output / "adapter" / "adapter_model.safetensors"
    expected = adapter.read_bytes()
    listed = saved.output / "results.json"
    listed.write_text(json.dumps({"step": 2, "files": None}))
    adapter.write_bytes(b"cut")
    assert saved.resume() == 0
    assert adapter.read_bytes() == expected
    assert json.loads(listed.read_text()) == {
        "step": 2,
        "files": {"adapter": ["adapter_config.json", "adapter_model.safetensors"]},
    }
    assert "2 steps of training" in capsys.readouterr().out
