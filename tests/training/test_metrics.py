"""Metrics: their arithmetic by hand, and the files they are written to."""

from __future__ import annotations

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels.backend import Backend
from flaxen.models.decoder import decoder
from flaxen.training.full import full
from flaxen.training.loop import TrainMetrics
from flaxen.training.lora import lora
from flaxen.training.metrics import (
    flops_per_token,
    measure_peak_flops,
    to_record,
    write_jsonl,
    write_tensorboard,
)
from tests.training.tiny import LORA
from tools.decoders import uniform_decoder


def model(*, tied: bool) -> object:
    sizes = {"vocab_size": 10, "model_dim": 4, "mlp_dim": 6, "num_layers": 2}
    heads = {"num_heads": 2, "num_kv_heads": 1, "head_dim": 2}
    return decoder(uniform_decoder(**sizes, **heads, tied_embeddings=tied))


def metrics(num: int = 1) -> TrainMetrics:
    return TrainMetrics(
        step=3,
        values={"loss": np.full(num, 2.5, np.float32)},
        grad_norm=np.full(num, 0.5, np.float32),
        learning_rate=np.full(num, 0.25, np.float32),
        num_tokens=100,
        num_loss_tokens=80,
        seconds=0.5,
    )


@pytest.mark.parametrize("tied", [True, False])
def test_flops_by_hand(tied: bool) -> None:
    # A layer: q 4x4, k and v 4x2, o 4x4, gate, up and down 4x6; the unembedding 10x4.
    num_weights = 2 * (16 + 8 + 8 + 16 + 3 * 24) + 40
    found = model(tied=tied)
    assert flops_per_token(found, full(found, dtype=jnp.dtype("float32"))) == 6 * num_weights
    assert flops_per_token(found, lora(LORA)) == 4 * num_weights


def test_a_record_by_hand() -> None:
    found = to_record(metrics(), flops=1000, peak_flops=1e6, num_steps=10)
    assert found == {
        "step": 3,
        "loss": 2.5,
        "grad_norm": 0.5,
        "learning_rate": 0.25,
        "num_tokens": 100,
        "num_loss_tokens": 80,
        "seconds": 0.5,
        "tokens_per_second": 200.0,
        "mfu": 0.2,
        "seconds_left": 3.5,
    }
    assert to_record(metrics(2), flops=1000, peak_flops=1e6, num_steps=10)["mfu"] == 0.4


def test_json_lines_are_appended_where_the_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"

    def write_steps(first: int, last: int) -> None:
        with write_jsonl(path, after_step=first - 1) as write:
            for step in range(first, last + 1):
                write({"step": step, "from": first})

    write_steps(1, 4)
    with path.open("a") as file:
        file.write('{"step": 5, "fr')  # killed
    write_steps(3, 5)  # the last checkpoint was of step 2
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(each["step"], each["from"]) for each in found] == [
        (1, 1), (2, 1), (3, 3), (4, 3), (5, 3),
    ]  # fmt: skip
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    with write_tensorboard(tmp_path) as write:
        write(to_record(metrics(), flops=1, peak_flops=1, num_steps=9))
        write(to_record(metrics(2), flops=1, peak_flops=1, num_steps=9))
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    for tag in (b"loss", b"loss/1", b"mfu"):
        assert tag in content


def test_the_peak_is_measured() -> None:
    assert measure_peak_flops(Backend.REFERENCE, size=64, seconds=0.01) > 1e6
