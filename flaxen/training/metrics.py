"""A run's metrics: derived speeds (MFU, time left), written as JSON lines and TensorBoard files.

Deliberately does not know: terminals, the training step.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tensorboardX import SummaryWriter

from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.kernels.device import is_accelerator
from flaxen.kernels.device_speed import product_flops
from flaxen.models.model import Model
from flaxen.models.params import is_spec
from flaxen.training.loop import TrainMetrics
from flaxen.training.trainable import Trainable

MetricsRecord = dict[str, float | int | list[float]]
Write = Callable[[MetricsRecord], None]


def flops_per_token(model: Model, trainable: Trainable) -> int:
    """Floating-point operations of training on one token, without adapters and attention.

    Each weight of a matrix costs 2 in the forward, 2 for the gradient of its input, and 2 more for
    its own gradient if it is trained. What rematerialisation computes twice counts once.

    Args:
      model: the model whose matrices are counted, experts for the share of tokens that each gets; a
          tied embedding once, as the unembedding.
      trainable: with adapters, the matrices are frozen.
    """
    specs = jax.tree.leaves(model.param_specs, is_leaf=is_spec)
    multiplied = (spec for spec in specs if spec.is_multiplied)
    num_weights: int = sum(round(math.prod(spec.shape) * spec.share) for spec in multiplied)
    return num_weights * (6 if trainable.num_adapters is None else 4)


def measure_peak_flops(backend: Backend, size: int = 1024, seconds: float = 0.5) -> float:
    """Measures floating-point operations a second: the peak of our kernels' instruction set, an
    accelerator's bfloat16 products, or a CPU's float32 products by XLA.

    Args:
      backend: what computes.
      size: the size of a CPU's matrices.
      seconds: how long to try them.
    """
    if backend is Backend.CPU:
        return max(
            cpu_library.peak_flops(dtype) for dtype in ("float32", "bfloat16") for _ in range(5)
        )
    if is_accelerator():
        return product_flops("bfloat16")
    matrix = jnp.ones((size, size), jnp.float32)
    multiply = jax.jit(jnp.matmul)
    jax.block_until_ready(multiply(matrix, matrix))
    best = float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        jax.block_until_ready(multiply(matrix, matrix))
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def to_record(
    metrics: TrainMetrics, *, flops: int, peak_flops: float, num_steps: int
) -> MetricsRecord:
    """A step's metrics as one flat record.

    Args:
      metrics: the step's metrics.
      flops: operations for a token and an adapter.
      peak_flops: the machine's operations a second.
      num_steps: the steps of the run.

    Returns:
      Numbers by name; lists if several adapters are trained. `mfu` is the model FLOPs utilisation
      from 0 to 1 (https://arxiv.org/abs/2204.02311); `seconds_left` assumes that the remaining
      steps take as long as this one.
    """
    num_groups = metrics.grad_norm.size
    rate = metrics.num_tokens / metrics.seconds
    several = {
        **metrics.values,
        "grad_norm": metrics.grad_norm,
        "learning_rate": metrics.learning_rate,
    }
    return {
        "step": metrics.step,
        **{name: _number(value) for name, value in several.items()},
        "num_tokens": metrics.num_tokens,
        "num_loss_tokens": metrics.num_loss_tokens,
        "seconds": metrics.seconds,
        "tokens_per_second": rate,
        "mfu": rate * num_groups * flops / peak_flops,
        "seconds_left": (num_steps - metrics.step) * metrics.seconds,
    }


def _number(value: np.ndarray) -> float | list[float]:
    numbers = [float(each) for each in value]
    return numbers[0] if len(numbers) == 1 else numbers


@contextmanager
def write_jsonl(path: Path, *, after_step: int) -> Iterator[Write]:
    """Yields a function that appends a record to a file as one line, immediately.

    Args:
      path: the file.
      after_step: the step after which the run starts or resumes. Lines of later steps are removed:
          a resumed run computes these steps again.
    """
    kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= after_step]
    filling = path.with_name(f"{path.name}.part")
    filling.write_text("".join(kept), encoding="utf-8")
    filling.replace(path)
    with path.open("a", encoding="utf-8") as file:

        def write(record: MetricsRecord) -> None:
            file.write(json.dumps(record) + "\n")
            file.flush()

        yield write


def _whole_lines(path: Path) -> list[str]:
    """The complete lines of a file, without one that a killed process had not finished."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n")]


@contextmanager
def write_tensorboard(directory: Path) -> Iterator[Write]:
    """Yields a function that adds a record to TensorBoard's event file; lists as NAME/0, NAME/1,
    ...

    Args:
      directory: the directory of the run.
    """
    writer = SummaryWriter(str(directory))

    def write(record: MetricsRecord) -> None:
        step = record["step"]
        for name, value in record.items():
            if isinstance(value, list):
                for index, each in enumerate(value):
                    writer.add_scalar(f"{name}/{index}", each, step)
            elif name != "step":
                writer.add_scalar(name, value, step)
        writer.flush()  # a run may be killed at any moment

    try:
        yield write
    finally:
        writer.close()
