"""`flaxen train` on a tiny model in files: every method, resuming, and what it refuses."""

from __future__ import annotations

import io
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from rich.console import Console

from flaxen.cli.main import main
from flaxen.cli.train.command import gather
from flaxen.cli.train.options import SettingOptions
from flaxen.runs.display import describe, show_training
from flaxen.weights.adapters.peft import load_adapter
from flaxen.weights.checkpoint import open_checkpoint
from tests.cli.train.tiny_training import train, write_model, write_texts
from tests.compile_cache import shared_directory

RECORD = {"step": 3, "loss": 2.5, "tokens_per_second": 1234.5, "mfu": 0.25, "seconds_left": 3661.0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "texts.jsonl")


@pytest.fixture
def compile_cache() -> Path:
    return shared_directory()


def records(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_an_adapter_is_trained_and_a_run_goes_on_where_it_was(
    model: Path, texts: Path, tmp_path: Path, compile_cache: Path, capsys: Any
) -> None:
    options = ("--learning-rate", 0.01, "--rank", 4, "--num-microbatches", 2)
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    assert train(model, texts, whole, compile_cache, *options, "--num-steps", 4) == 0
    out, err = capsys.readouterr()
    assert out == f"{whole}/adapter: 4 steps of training\n"
    assert "step 4/4  loss " in err
    found = records(whole)
    assert [each["step"] for each in found] == [1, 2, 3, 4]
    assert found[-1]["loss"] < found[0]["loss"]
    assert json.loads((whole / "config.json").read_text())["lora"]["rank"] == 4
    assert list((whole / "tensorboard").iterdir())

    assert train(model, texts, parts, compile_cache, *options, "--num-steps", 2) == 0
    assert train(model, texts, parts, compile_cache, *options, "--num-steps", 4) == 2
    assert "holds a run of 2 steps: give --resume to go on" in capsys.readouterr().err
    resume = (*options, "--num-steps", 4, "--resume")
    assert train(model, texts, parts, compile_cache, *resume) == 0  # its adapter is replaced
    assert [each["step"] for each in records(parts)] == [1, 2, 3, 4]
    capsys.readouterr()
    assert train(model, texts, parts, compile_cache, *resume) == 0
    out = f"{parts}/adapter: 4 steps of training, all made before: nothing was left to train\n"
    assert capsys.readouterr().out == out
    one, other = (
        load_adapter(each / "adapter", open_checkpoint(model).model) for each in (whole, parts)
    )
    for a, b in zip(jax.tree.leaves(one.tree), jax.tree.leaves(other.tree), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_finished_run_says_what_it_is_when_fewer_steps_are_asked_for(
    model: Path, texts: Path, tmp_path: Path, compile_cache: Path, capsys: Any
) -> None:
    output = tmp_path / "out"
    assert train(model, texts, output, compile_cache, "--num-steps", 3) == 0
    before = (output / "adapter" / "adapter_model.safetensors").read_bytes()
    capsys.readouterr()
    fewer = ("--num-steps", 1, "--resume", "--set", "schedule.warmup_steps=0")
    assert train(model, texts, output, compile_cache, *fewer) == 0
    assert capsys.readouterr().out == (
        f"{output}/adapter: 3 steps of training, all made before (num_steps is 1): nothing was "
        "left to train\n"
    )
    assert (output / "adapter" / "adapter_model.safetensors").read_bytes() == before


def test_more_epochs_go_on_with_the_same_run(
    model: Path, texts: Path, tmp_path: Path, compile_cache: Path, capsys: Any
) -> None:
    """And end as if they had been asked for at once; the schedule is constant here."""
    options = ("--batch-size", 3, "--set", "data.max_segments=1", "--learning-rate", 0.01)
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    assert train(model, texts, whole, compile_cache, *options, "--set", "data.epochs=2") == 0
    assert train(model, texts, parts, compile_cache, *options, "--set", "data.epochs=1") == 0
    more = ("--set", "data.epochs=2", "--resume")
    assert train(model, texts, parts, compile_cache, *options, *more) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{parts}/adapter: 4 steps of training"
    name = Path("adapter") / "adapter_model.safetensors"
    assert (parts / name).read_bytes() == (whole / name).read_bytes()


def test_num_steps_goes_before_epochs(
    model: Path, texts: Path, tmp_path: Path, compile_cache: Path, capsys: Any
) -> None:
    """As with max_steps in transformers, the data are repeated as often as needed."""
    two_steps_an_epoch = ("--batch-size", 3, "--set", "data.max_segments=1")
    both = ("--set", "data.epochs=2", "--num-steps", 5)
    output = tmp_path / "out"
    assert train(model, texts, output, compile_cache, *two_steps_an_epoch, *both) == 0
    assert capsys.readouterr().out == f"{output}/adapter: 5 steps of training\n"
    assert len(records(output)) == 5


def test_a_model_is_trained_from_scratch(
    model: Path, texts: Path, tmp_path: Path, compile_cache: Path
) -> None:
    bare = tmp_path / "bare"  # no weights
    bare.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (bare / name).write_bytes((model / name).read_bytes())
    output = tmp_path / "out"
    options = ("--method", "full", "--from-scratch", "--learning-rate", 0.01, "--num-steps", 5)
    assert train(bare, texts, output, compile_cache, *options, "--dtype", "float32") == 0
    losses = [each["loss"] for each in records(output)]
    assert losses[-1] < losses[0]
    written = open_checkpoint(output / "model")
    assert written.dtype == jnp.float32
    assert written.config == open_checkpoint(model).config
    assert written.make_tokenizer().encode("a cat") == open_checkpoint(
        model
    ).make_tokenizer().encode("a cat")


def test_several_adapters_learn_from_pairs(
    model: Path, tmp_path: Path, compile_cache: Path
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    lines = [
        {"prompt": f"a {word} is", "chosen": " good", "rejected": " bad"} for word in ("cat", "dog")
    ]
    pairs.write_text("\n".join(map(json.dumps, lines)))
    output = tmp_path / "out"
    rates = ("--set", "lora.learning_rates=[0.02, 0.001]", "--set", "dpo.beta=0.5")
    options = ("--method", "dpo", "--num-steps", 5, "--rank", 2, *rates)
    assert train(model, pairs, output, compile_cache, *options) == 0
    last = records(output)[-1]
    assert last["accuracy"] == [1.0, 1.0]
    assert last["loss"][0] < last["loss"][1] < np.log(2)
    for index in (0, 1):
        load_adapter(output / f"adapter-{index}", open_checkpoint(model).model)


def test_a_chat_template_is_given_and_goes_with_the_model(
    model: Path, tmp_path: Path, compile_cache: Path, capsys: Any
) -> None:
    chats = tmp_path / "chats.jsonl"
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    chats.write_text(json.dumps({"messages": messages}))
    options = ("--method", "full", "--num-steps", 1)
    assert train(model, chats, tmp_path / "none", compile_cache, *options) == 2
    assert f"{chats}:1: the model has no chat template" in capsys.readouterr().err
    template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    file = tmp_path / "chat.jinja"
    file.write_text(template)
    for number, given in enumerate((file, template)):
        output = tmp_path / str(number)
        assert train(model, chats, output, compile_cache, *options, "--chat-template", given) == 0
        assert open_checkpoint(output / "model").make_tokenizer().chat_template == template
    given = ("--chat-template", tmp_path / "missing")
    assert train(model, chats, tmp_path / "other", compile_cache, *options, *given) == 2
    assert "missing' is no file, has no Jinja in it" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_tokens_that_the_model_does_not_know_are_named(
    model: Path, tmp_path: Path, compile_cache: Path, capsys: Any
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in model.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    vocab_size = open_checkpoint(model).model.vocab_size
    backend = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    backend.add_tokens([f"<{i}>" for i in range(vocab_size)])
    backend.save(str(other / "tokenizer.json"))
    texts = tmp_path / "texts.jsonl"
    texts.write_text(f'{{"text": "a cat"}}\n{{"text": "a <{vocab_size - 1}> cat"}}')
    message = f"{texts}:2: the token '<{vocab_size - 1}>' has the id "
    assert train(other, texts, tmp_path / "out", compile_cache) == 2
    assert message in capsys.readouterr().err
    arguments = ["eval", other, "--data", texts, "--compile-cache", compile_cache]
    assert main(list(map(str, arguments))) == 2
    assert message in capsys.readouterr().err


def test_skipped_and_cut_records_are_counted_and_named(
    model: Path, texts: Path, tmp_path: Path, compile_cache: Path, capsys: Any
) -> None:
    with texts.open("a") as file:
        file.write('\n{"txt": "the"}\n' + json.dumps({"prompt": "a", "completion": "b" * 40}))
    one = ("--num-steps", 1)
    assert train(model, texts, tmp_path / "out", compile_cache, *one) == 2
    assert f"1 of 8 records can't be used: {texts}:7: a record must" in capsys.readouterr().err
    skip = ("--set", "data.on_bad_record=skip", "--set", "data.shuffle=false")
    assert train(model, texts, tmp_path / "out", compile_cache, *one, *skip) == 0
    out, err = capsys.readouterr()
    assert f"1 of 8 records skipped ({texts}:7: a record must have the keys" in err
    assert "of training; 1 of 8 records skipped (" in out
    assert out.endswith("), 1 cut to sequence_length\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "optimizer.nme=lion"], "no setting optimizer.nme: did you mean optimizer.name?"),
        (["--set", "seed"], "--set seed must be NAME=VALUE"),
        (["--set", "seed=["], "--set seed=[: the value is no YAML"),
        (["--sequence-length", 100_000], "data.sequence_length is 100000, and the model was made"),
        (["--method", "sft"], "method 'sft' is not supported"),
    ],
)
def test_what_is_wrong_is_said(
    model: Path,
    texts: Path,
    tmp_path: Path,
    compile_cache: Path,
    capsys: Any,
    arguments: list[object],
    message: str,
) -> None:
    assert train(model, texts, tmp_path / "out", compile_cache, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_each_flag_is_a_setting() -> None:
    """No flag is dropped on the way: each gives its own name as its value here."""
    names = {each.name for each in fields(SettingOptions)}
    given: dict[str, Any] = {name: name for name in names} | {"data": ["data"]}
    values = SettingOptions(**given).named().values()
    found = {value[0] if isinstance(value, list) else value for value in values}
    assert found == names


def test_flags_override_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("seed: 1\noptimizer: {name: sgd, learning_rate: 0.1}\n")
    flags = {"seed": None, "optimizer.learning_rate": 0.2}
    assert gather(path, flags, ["optimizer.name=lion", "lora.seeds=[1, 2]"]) == {
        "seed": 1,
        "optimizer": {"name": "lion", "learning_rate": 0.2},
        "lora": {"seeds": [1, 2]},
    }


def test_progress_in_words() -> None:
    expected = "step 3/9  loss 2.5000  1,234 tokens/s  MFU 25.0%  1:01:01 left"
    assert describe(RECORD, 9) == expected
    assert "loss 2.0000 3.0000 " in describe({**RECORD, "loss": [2.0, 3.0]}, 9)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_shown(is_terminal: bool) -> None:
    console = Console(record=True, force_terminal=is_terminal, width=120, file=io.StringIO())
    with show_training(console, 9) as show:
        show(RECORD)
        show({**RECORD, "step": 9})
    text = console.export_text()
    assert "step 9/9" in text


def test_few_records_and_no_sizes_make_steps_enough_to_learn_from(
    model: Path, tmp_path: Path, compile_cache: Path, capsys: Any
) -> None:
    chats = write_texts(tmp_path / "texts.jsonl")
    arguments = ["train", model, "--data", chats, "--output-dir", tmp_path / "out"]
    more = ["--rank", 2, "--peak-flops", 1e9, "--compile-cache", compile_cache]
    assert main(list(map(str, [*arguments, *more]))) == 0
    said = "6 records: 96 tokens in 6 rows of 16; with 1 row a step that is 6 steps. These are few"
    assert said in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "config.json").read_text())["data"]["batch_size"] == 1


def test_a_warm_up_that_is_longer_than_the_run_is_told_what_packing_made_of_the_data(
    model: Path, texts: Path, tmp_path: Path, compile_cache: Path, capsys: Any
) -> None:
    warm_up = ("--set", "schedule.warmup_steps=10")
    assert train(model, texts, tmp_path / "out", compile_cache, *warm_up) == 2
    error = capsys.readouterr().err
    assert "steps can't hold 10 of warm-up and 1 after it: train longer, or set schedule." in error
    assert "6 records: 96 tokens in 6 rows of 24; with 2 rows a step that is 3 steps." in error
