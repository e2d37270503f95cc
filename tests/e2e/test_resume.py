"""`flaxen train`, killed at random moments again and again, ends at an uninterrupted run's bits."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file
from tokenizers import decoders, models, pre_tokenizers

from flaxen.checkpoints.reading import steps_in

NUM_STEPS = 60
NUM_KILLS = 6
SEED = 4
# Random parameters are made of it: no weights are there.
MODEL = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 257,
    "hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path, compile_cache: Path) -> list[str]:
    """The settings of a run that shuffles, packs and accumulates, and saves each step."""
    model, data = tmp_path / "tiny", tmp_path / "data.jsonl"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(MODEL))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(alphabet)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<eos>"])
    backend.save(str(model / "tokenizer.json"))
    (model / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>"}))
    rng = random.Random(0)
    lines = [{"text": "".join(rng.choices("abcdef ", k=rng.randint(5, 60)))} for _ in range(100)]
    data.write_text("\n".join(map(json.dumps, lines)))
    return [
        *("--model", str(model), "--from-scratch", "--method", "full", "--dtype", "float32"),
        *("--data", str(data), "--batch-size", "2", "--sequence-length", "32"),
        *("--num-steps", str(NUM_STEPS), "--num-microbatches", "2", "--learning-rate", "0.01"),
        *("--set", "checkpoint.every=1", "--set", "checkpoint.keep=2", "--seed", "3"),
        *("--peak-flops", "1e9", "--compile-cache", str(compile_cache), "--resume"),
    ]


class Training:
    """A process of `flaxen train`."""

    def __init__(self, directory: Path, settings: list[str]) -> None:
        self.metrics = directory / "metrics.jsonl"
        self.log = directory.with_suffix(".log")
        command = [sys.executable, "-m", "flaxen", "train", "--output-dir", str(directory)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *settings], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def num_records(self) -> int:
        """How many steps the processes of the run have reported."""
        return self.metrics.read_bytes().count(b"\n") if self.metrics.exists() else 0

    def wait_for_records(self, num: int) -> None:
        while self.num_records() < num:
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.005)

    def wait_for_unfinished(self) -> None:
        """Waits until a checkpoint is being written."""
        checkpoints = self.metrics.parent / "checkpoints"
        while not any(checkpoints.glob("*.part")):
            assert self.process.poll() is None, self.log.read_text()

    def wait(self) -> None:
        assert self.process.wait(300) == 0, self.log.read_text()


def result(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = load_file(directory / "model" / "model.safetensors")
    return found


@pytest.mark.slow
def test_killed_at_random_points_it_reaches_the_same_bits(
    tmp_path: Path, settings: list[str]
) -> None:
    Training(tmp_path / "whole", settings).wait()

    rng = random.Random(SEED)
    directory = tmp_path / "killed"
    num_unfinished, complete = 0, 0
    for kill in range(NUM_KILLS):
        # At the third record the first step's checkpoint is complete. Every other kill waits for
        # the next one to be begun, and falls into it.
        training = Training(directory, settings)
        try:
            training.wait_for_records(training.num_records() + rng.randint(3, 7))
            time.sleep(rng.random() * 0.05)
            if kill % 2:
                training.wait_for_unfinished()
        finally:
            training.process.kill()  # SIGKILL
            assert training.process.wait() == -9
        checkpoints = directory / "checkpoints"
        assert steps_in(checkpoints)[-1] > complete  # none was lost, and one more is complete
        complete = steps_in(checkpoints)[-1]
        num_unfinished += any(checkpoints.glob("*.part"))
    print(f"{num_unfinished} of {NUM_KILLS} kills left an unfinished checkpoint")
    assert num_unfinished > 0
    assert NUM_KILLS < complete < NUM_STEPS

    Training(directory, settings).wait()
    assert steps_in(directory / "checkpoints") == [NUM_STEPS - 1, NUM_STEPS]
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, NUM_STEPS + 1))
    expected, found = result(tmp_path / "whole"), result(directory)
    assert sorted(found) == sorted(expected)
    for name in expected:
        assert expected[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
