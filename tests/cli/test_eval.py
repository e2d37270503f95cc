"""`flaxen eval`: on a tiny model in files, and what it says of wrong options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from flaxen.cli.eval import describe, find_task
from flaxen.cli.main import main
from flaxen.evaluation import check_pages
from flaxen.models.adapters import LoraConfig, adapter_shapes
from flaxen.weights.adapters.adapter import Adapter
from flaxen.weights.adapters.peft_writer import save_adapter
from flaxen.weights.checkpoint import open_checkpoint
from tests.data.tiny_text import write_jsonl
from tests.models.golden import GOLDENS, logits_of
from tests.weights.files import change_config

TEXT = "the quick brown fox jumps over the lazy dog"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama with a tokenizer of one letter a token."""
    directory = tmp_path_factory.mktemp("model")
    for name in ("config.json", "model.safetensors"):
        (directory / name).write_bytes((GOLDENS / "llama_default" / name).read_bytes())
    change_config(directory, eos_token_id=None)
    letters = {letter: i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyzĠ.")}
    backend = tokenizers.Tokenizer(models.BPE(vocab=letters, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.save(str(directory / "tokenizer.json"))
    return directory


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    given = ["eval", *map(str, arguments), "--dtype", "float32", "--json"]
    assert main(given) == 0, capsys.readouterr().err
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def loss_by_hand(model: Path, text: str) -> np.ndarray:
    """The loss of each letter after the first."""
    checkpoint = open_checkpoint(model)
    tokens = np.array(checkpoint.make_tokenizer().encode(text))
    logits = logits_of(checkpoint.model, checkpoint.load_params(np.dtype("float32")), tokens)
    logits = logits.reshape(len(tokens), -1).astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -logprobs[np.arange(len(tokens) - 1), tokens[1:]]


def test_perplexity(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": TEXT}, {"text": "ab"}])
    result = evaluate(capsys, model, "--data", file, "--sequence-length", "64")
    expected = [*loss_by_hand(model, TEXT), *loss_by_hand(model, "ab")]
    assert result["num_tokens"] == len(expected) == len(TEXT)
    assert result["loss"] == pytest.approx(np.mean(expected), abs=1e-4)
    assert result["perplexity"] == pytest.approx(np.exp(np.mean(expected)), rel=1e-4)
    assert (result["num_records"], result["num_bad"], result["task"]) == (2, 0, "perplexity")

    text = tmp_path / "a.txt"
    text.write_text(TEXT)
    windows = evaluate(capsys, model, "-d", text, "--sequence-length", "10", "--stride", "4")
    losses = [*loss_by_hand(model, TEXT[:11])]
    for begin in range(4, len(TEXT) - 7, 4):
        losses += [*loss_by_hand(model, TEXT[begin : begin + 11])[6:]]
    assert windows["num_tokens"] == len(losses) == len(TEXT) - 1
    assert windows["loss"] == pytest.approx(np.mean(losses), abs=1e-4)


def test_perplexity_through_the_pages_of_a_kv_cache(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plain pages change nothing but rounding; int8 changes a little."""
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": TEXT}, {"text": "abc"}])
    given = (model, "--data", file, "--sequence-length", "48")
    plain = evaluate(capsys, *given)
    paged = evaluate(capsys, *given, "--kv-cache-dtype", "float32")
    rounded = evaluate(capsys, *given, "--kv-cache-dtype", "int8")
    assert plain["num_tokens"] == paged["num_tokens"] == rounded["num_tokens"]
    assert paged["loss"] == pytest.approx(plain["loss"], abs=1e-5)
    assert 1e-7 < abs(rounded["loss"] - plain["loss"]) < 0.02
    assert (plain["kv_cache_dtype"], rounded["kv_cache_dtype"]) == (None, "int8")
    assert plain["weight_bytes"] == paged["weight_bytes"] > 0
    head_dim = 16
    assert plain["kv_cache_bytes"] is None
    assert rounded["kv_cache_bytes"] / paged["kv_cache_bytes"] == (head_dim + 2) / (4 * head_dim)


def test_what_is_not_computed_through_pages_is_refused() -> None:
    with pytest.raises(ValueError, match="--kv-cache-dtype is for perplexity"):
        check_pages("choice", None)
    with pytest.raises(ValueError, match="and an adapter are not evaluated together: merge it"):
        check_pages("perplexity", Path("adapter"))


def test_multiple_choice_with_an_adapter(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = [f"what is {letter}" for letter in "abcdefghij"]
    choices = [" xy", " z", " qrst"]
    questions = [{"prompt": p, "choices": choices, "answer": 1} for p in prompts]
    file = write_jsonl(tmp_path / "a.jsonl", questions)
    result = evaluate(capsys, model, "--data", file, "--sequence-length", "32")
    scores = np.array(
        [[-loss_by_hand(model, p + c)[len(p) - 1 :].sum() for c in choices] for p in prompts]
    )
    acc = float((scores.argmax(1) == 1).mean())
    assert result["acc"] == acc
    assert result["acc_norm"] == float(((scores / [3, 2, 5]).argmax(1) == 1).mean())
    assert (result["num_questions"], result["task"]) == (10, "choice")

    config = LoraConfig(rank=2, alpha=4.0, targets=("w_down",))
    rng = np.random.default_rng(0)
    layers = tuple(
        {
            name: {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
            for name, shapes in layer.items()
        }
        for layer in adapter_shapes(open_checkpoint(model).model, config)["layers"]
    )
    save_adapter(tmp_path / "adapter", Adapter(config=config, layers=layers))
    texts = write_jsonl(tmp_path / "b.jsonl", [{"text": TEXT}])
    given = (model, "--data", texts, "--sequence-length", "64")
    base = evaluate(capsys, *given)
    adapted = evaluate(capsys, *given, "--adapter", tmp_path / "adapter")
    assert adapted["adapter"] == str(tmp_path / "adapter")
    assert abs(adapted["loss"] - base["loss"]) > 0.01


def test_a_chat_template_is_given(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}]
    file = write_jsonl(tmp_path / "a.jsonl", [{"messages": messages}])
    template = "{% for m in messages %}{{ m.content }}.{% endfor %}"
    result = evaluate(capsys, model, "-d", file, "--chat-template", template)
    expected = loss_by_hand(model, "ab.cd.")[2:]
    assert result["num_tokens"] == len(expected) == 3
    assert result["loss"] == pytest.approx(np.mean(expected), abs=1e-4)


def test_bad_records_are_skipped_as_asked(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": TEXT}, 3])
    assert main(["eval", str(model), "--data", str(file)]) == 2
    assert "1 of 2 records can't be used: " in capsys.readouterr().err
    assert evaluate(capsys, model, "-d", file, "--on-bad-record", "skip")["num_bad"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "bleu"], "the task 'bleu' is not known: use one of auto, perplexity, choice"),
        (["--on-bad-record", "warn"], "--on-bad-record must be fail or skip, got 'warn'"),
        (["--task", "choice", "--stride", "3"], "--stride is for the perplexity of long texts"),
        (["--sequence-length", "9", "--stride", "10"], "--stride 10 is more than the 9 tokens"),
        (["--sequence-length", "1000000"], "and the model was made for"),
        (["--dtype", "int3"], "dtype 'int3' is not supported"),
        (["--adapter", "/nowhere"], "/nowhere"),
    ],
)
def test_wrong_options(
    model: Path,
    tmp_path: Path,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": TEXT}])
    assert main(["eval", str(model), "--data", str(file), *options]) == 2
    error = capsys.readouterr().err
    assert message in error


def test_the_task_is_found_by_the_first_record(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [{"choices": []}])
    assert find_task(file) == "choice"
    file.write_text("\n\n{")
    assert find_task(file) == "perplexity"
    assert find_task(tmp_path / "a.txt") == "perplexity"


def test_results_in_words() -> None:
    shared = {"num_bad": 2, "num_truncated": 0}
    texts = {"perplexity": 2.0, "loss": 0.5, "num_tokens": 9, "num_records": 3}
    shown = describe({"task": "perplexity", "sequence_length": 8, "stride": 4, **texts, **shared})
    assert shown == (
        "perplexity 2.0000, loss 0.50000 a token, over 9 tokens of 3 records (windows of 8 "
        "tokens, 4 new in each; 2 bad records skipped)"
    )
    scores = {"acc": 0.5, "acc_stderr": 0.1, "acc_norm": 0.25, "acc_norm_stderr": 0.2}
    shown = describe({"task": "choice", "num_questions": 4, **scores, "num_bad": 0} | shared)
    assert shown.startswith("acc 0.5000 ± 0.1000, acc_norm 0.2500 ± 0.2000, over 4 questions (ac")


@pytest.mark.slow
def test_smollm2_knows_some_facts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capitals = {"France": "Paris", "Italy": "Rome", "Japan": "Tokyo", "Egypt": "Cairo"}
    names = list(capitals.values())
    questions = [
        {
            "messages": [{"role": "user", "content": f"What is the capital of {country}?"}],
            "choices": [f"The capital of {country} is {name}." for name in names],
            "answer": names.index(capital),
        }
        for country, capital in capitals.items()
    ]
    file = write_jsonl(tmp_path / "a.jsonl", questions)
    cache = tmp_path / "cache"
    arguments = ["eval", "smollm2-135m", "--data", str(file), "--json", "--sequence-length", "64"]
    assert main([*arguments, "--compile-cache", str(cache)]) == 0
    assert json.loads(capsys.readouterr().out)["acc"] == 1
