"""A tiny model in files, texts to train it on, and `flaxen train` of both."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from flaxen.cli.main import main
from tests.models.golden import GOLDENS
from tests.weights.files import change_config

_LETTERS = [*"abcdefghijklmnopqrstuvwxyz", "Ġ"]


def write_model(directory: Path) -> Path:
    """A tiny llama with a tokenizer of one letter a token."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        (directory / name).write_bytes((GOLDENS / "llama_default" / name).read_bytes())
    backend = tokenizers.Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(_LETTERS)}, merges=[])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<eos>"])
    backend.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>"}))
    change_config(directory, eos_token_id=len(_LETTERS))
    return directory


def write_texts(path: Path) -> Path:
    """Six records."""
    lines = [
        {"text": f"the {word} is a {word}"} for word in ["cat", "dog", "bee", "ant", "elk", "owl"]
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def arguments(model: Path, data: Path, output: Path, cache: Path, *more: object) -> list[str]:
    """Arguments of `flaxen` for a short run."""
    fixed = ["--model", model, "--data", data, "--output-dir", output, "--compile-cache", cache]
    sizes = ["--batch-size", 2, "--sequence-length", 24, "--peak-flops", 1e9]
    constant = ["--set", "schedule.name=constant", "--set", "checkpoint.every=1"]
    return ["train", *map(str, [*fixed, *sizes, *constant, *more])]


def train(model: Path, data: Path, output: Path, cache: Path, *more: object) -> int:
    """The command's exit status."""
    return main(arguments(model, data, output, cache, *more))
