"""A small language model from scratch: SciPy's docstrings, a new tokenizer, a loss curve.

Writes corpus, tokenizer and model's configuration into a directory, runs `flaxen train` there with
random parameters, and `flaxen eval` on docstrings that were held out. About six minutes on two
slow cores. Prints a table and ends with one JSON line.

    python benchmarks/pretrain.py [--num-steps 800] [--write]

--write keeps the figures in benchmarks/results/pretrain.json and draws docs/images/pretrain.svg.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
from docstrings import describe, read_docstrings
from plot import draw_curves
from report import HERE, report
from tokenizers import decoders, models, pre_tokenizers, trainers

VOCAB_SIZE = 2048
MODEL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 128,
    "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256,
    "tie_word_embeddings": True, "vocab_size": VOCAB_SIZE,
}  # fmt: skip
HELD_OUT = 20  # every 20th docstring
CONFIG: dict[str, Any] = {
    "method": "full",
    "from_scratch": True,
    "data": {"batch_size": 8, "sequence_length": 256},
    "optimizer": {"name": "adamw", "learning_rate": 3e-3, "weight_decay": 0.1, "beta2": 0.95},
    "schedule": {"name": "cosine", "warmup_steps": 20, "final_share": 0.1},
    "checkpoint": {"every": 200, "keep": 1},
}
SMOOTHED = 20  # steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-steps", type=int, default=800)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flaxen-pretrain-") as directory:
        figures = _run(Path(directory), args.num_steps)
    losses = figures["losses"]
    print(f"\n{'step':>6}{'loss':>10}")
    for index in range(0, len(losses), max(1, len(losses) // 12)):
        print(f"{index + 1:6}{losses[index]:10.3f}")
    print(
        f"held out: loss {figures['held_out_loss']:.3f} a token, "
        f"{figures['held_out_bits_per_byte']:.3f} bits a byte; of a uniform guess "
        f"{figures['uniform_loss']:.3f}"
    )
    if args.write:
        _draw(HERE.parent / "docs" / "images" / "pretrain.svg", figures)
    report("pretrain", figures, write=args.write)


def _run(directory: Path, num_steps: int) -> dict[str, Any]:
    texts = [each.text for each in read_docstrings()]
    held_out, trained = texts[::HELD_OUT], [t for i, t in enumerate(texts) if i % HELD_OUT]
    files = {"train": directory / "train.jsonl", "held_out": directory / "held-out.jsonl"}
    for name, some in (("train", trained), ("held_out", held_out)):
        files[name].write_text("".join(json.dumps({"text": text}) + "\n" for text in some))
    model, output = directory / "model", directory / "out"
    _write_model(model, trained)
    config = directory / "config.yaml"  # JSON is valid YAML
    settings = {**CONFIG, "model": str(model), "output_dir": str(output), "num_steps": num_steps}
    settings["data"] = {**CONFIG["data"], "files": [str(files["train"])]}
    config.write_text(json.dumps(settings))
    _flaxen("train", str(config))
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    scored = json.loads(
        _flaxen(
            *("eval", str(output / "model"), "--data", str(files["held_out"]), "--json"),
            *("--sequence-length", str(MODEL["max_position_embeddings"])),
        )
    )
    num_bytes = sum(len(text.encode()) for text in held_out)
    return {
        "corpus": describe(),
        "num_docstrings": len(trained),
        "num_held_out": len(held_out),
        "num_parameters": _num_parameters(),
        "num_steps": num_steps,
        "num_tokens": sum(each["num_tokens"] for each in records),
        "seconds": round(sum(each["seconds"] for each in records), 1),
        "tokens_per_second": round(
            sum(each["num_tokens"] for each in records[1:])
            / sum(each["seconds"] for each in records[1:])  # the first compiles
        ),
        "mfu": round(sorted(each["mfu"] for each in records)[len(records) // 2], 4),
        "uniform_loss": round(math.log(VOCAB_SIZE), 4),
        "held_out_loss": round(scored["loss"], 4),
        "held_out_bits_per_byte": round(
            scored["loss"] * scored["num_tokens"] / math.log(2) / num_bytes, 4
        ),
        "config": CONFIG,
        "model": MODEL,
        "losses": [round(each["loss"], 4) for each in records],  # of each step
    }


def _write_model(directory: Path, texts: Sequence[str]) -> None:
    """Writes a configuration, and a tokenizer of bytes and the commonest byte pairs of `texts`."""
    directory.mkdir()
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>"}))
    (directory / "config.json").write_text(json.dumps({**MODEL, "eos_token_id": 0}))


def _num_parameters() -> int:
    d, f, h = (MODEL[name] for name in ("hidden_size", "intermediate_size", "head_dim"))
    n, k = (MODEL[name] for name in ("num_attention_heads", "num_key_value_heads"))
    layer = 2 * d * h * (n + k) + 3 * d * f + 2 * d
    return int(MODEL["num_hidden_layers"] * layer + VOCAB_SIZE * d + d)


def _draw(path: Path, figures: dict[str, Any]) -> None:
    curve = list(enumerate(figures["losses"], 1))
    smooth = []
    for end in range(1, len(curve) + 1):
        some = [loss for _, loss in curve[max(0, end - SMOOTHED) : end]]
        smooth.append((curve[end - 1][0], sum(some) / len(some)))
    last = [(curve[0][0], figures["held_out_loss"]), (curve[-1][0], figures["held_out_loss"])]
    draw_curves(
        path,
        {"each step": curve, f"mean of {SMOOTHED} steps": smooth, "held out, at the end": last},
        title=f"{figures['num_parameters'] / 1e6:.1f}M parameters from scratch on the "
        f"{figures['corpus']}",
        x_label="step of 8 rows of 256 tokens",
        y_label="loss, nats a token",
    )


def _flaxen(*arguments: str) -> str:
    """Runs a command, its progress on the terminal. Returns what it printed."""
    print(f"$ flaxen {' '.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "flaxen", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    main()
