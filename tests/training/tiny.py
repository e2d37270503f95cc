"""A tiny model to train, and batches of it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.data.batch import Batch, PairBatch
from flaxen.kernels.backend import Backend
from flaxen.kernels.choice import choose_backend
from flaxen.models.adapters import LoraConfig
from flaxen.models.model import Params
from flaxen.training.full import full
from flaxen.training.lora import lora
from flaxen.training.loss import Objective, next_token
from flaxen.training.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer, make_schedule
from flaxen.training.step import TrainStep, make_step
from flaxen.training.trainable import Trainable
from tests.engine import tiny
from tests.engine.tiny import PARAMS, pack_params

BACKEND = choose_backend()  # without the C++ kernels all is through XLA
MODEL = tiny.MODEL.on(BACKEND)
LORA = LoraConfig(rank=4, alpha=8.0)
FLOAT32 = jnp.dtype("float32")


def pack_row(sequences: Sequence[Sequence[int]], length: int) -> list[np.ndarray]:
    """One row of a Batch: its five arrays."""
    row = [np.zeros(length, np.int32) for _ in range(5)]
    row[1][:] = -1
    start = 0
    for number, ids in enumerate(sequences, 1):
        stop = start + len(ids)
        row[0][start:stop] = ids
        row[1][start : stop - 1] = ids[1:]
        row[3][start:stop] = number
        row[4][start:stop] = np.arange(len(ids))
        start = stop
    row[2] = (row[1] >= 0).astype(np.float32)
    return row


def pack_batch(rows: Sequence[Sequence[Sequence[int]]], length: int = 48) -> Batch:
    """A batch of rows of sequences of ids; every target has the weight 1."""
    packed = [pack_row(row, length) for row in rows]
    return Batch(*(np.stack(arrays) for arrays in zip(*packed, strict=True)))


def random_batch(seed: int, num_rows: int = 4, length: int = 48) -> Batch:
    """Rows of two or three segments and padding, some of whose targets have no loss."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(num_rows):
        lengths = [int(n) for n in rng.integers(5, length // 3, rng.integers(2, 4))]
        rows.append([rng.integers(3, MODEL.vocab_size, n).tolist() for n in lengths])
    batch = pack_batch(rows, length)
    drops = rng.random(batch.targets.shape) < 0.2
    return batch._replace(loss_weights=np.where(drops, np.float32(0), batch.loss_weights))


def random_pairs(seed: int, num_rows: int = 4, length: int = 32) -> PairBatch:
    """Answers to the same prompts: the chosen are of even ids, the rejected of odd ones."""
    rng = np.random.default_rng(seed)
    prompts = rng.integers(3, MODEL.vocab_size, (num_rows, 6))

    def answers(parity: int) -> Batch:
        ids = rng.integers(2, MODEL.vocab_size // 2, (num_rows, 8)) * 2 + parity - 1
        batch = pack_batch([[[*p, *a]] for p, a in zip(prompts, ids, strict=True)], length)
        weights = np.where(batch.positions < 5, np.float32(0), batch.loss_weights)
        return batch._replace(loss_weights=weights)

    return PairBatch(answers(1), answers(0))


class Repeated:
    """Gives the same batches again and again, or `end` of them; its state is how many it gave."""

    def __init__(
        self, batches: Sequence[Any], position: int = 0, *, end: int | None = None
    ) -> None:
        self.batches = batches
        self.position = position
        self.end = end

    def __next__(self) -> Any:
        if self.position == self.end:
            raise StopIteration
        self.position += 1
        return self.batches[(self.position - 1) % len(self.batches)]

    def state(self) -> dict[str, int]:
        return {"position": self.position}


def copy(tree: Any) -> Any:
    """Arrays of its own, which a step may take over."""
    return jax.tree.map(jnp.copy, tree)


def make(
    trainable: Trainable,
    objective: Objective | None = None,
    *,
    num_steps: int = 100,
    learning_rates: Sequence[float] = (1e-2,),
    **optimizer: Any,
) -> TrainStep:
    return make_step(
        trainable,
        objective or next_token(MODEL),
        make_optimizer(OptimizerConfig(**optimizer)),
        make_schedule(ScheduleConfig(name="constant"), num_steps),
        learning_rates,
    )


def base_params(dtype: str = "float32", *, backend: Backend = BACKEND) -> Params:
    """The frozen base of adapters, in the form of a backend."""
    if backend.packs_weights:
        return pack_params(PARAMS, dtype)
    return jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS)


@functools.cache  # compiled once for all tests
def full_step(dtype: str = "float32", **options: Any) -> TrainStep:
    return make(full(MODEL, dtype=jnp.dtype(dtype)), **options)


@functools.cache
def lora_step(num_adapters: int = 1, dropout: float = 0.0, **options: Any) -> TrainStep:
    return make(lora(LORA, num_adapters=num_adapters, dropout=dropout), **options)
