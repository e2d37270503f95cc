"""A worker: flaxen's training loop on LoRA adapters, put together as `flaxen train` does it.

Arguments: dtype of the base, threads, rank, alpha, learning_rate, compile_cache.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from .jsonlines import Train, answer_training
from .lora_start import draw_a


def load(model: str, args: dict[str, Any]) -> tuple[Train, dict[str, str]]:
    """Loads the base and makes the run's parts; the first step compiles."""
    from flaxen.cli.cpu import set_up_cpu

    set_up_cpu(args["threads"])

    import jax
    import jax.numpy as jnp

    import flaxen
    from flaxen.compile_cache import use_compile_cache
    from flaxen.kernels.choice import choose_backend
    from flaxen.models.adapters import LoraConfig, adapter_shapes
    from flaxen.training.loop import Callbacks, TrainMetrics, train
    from flaxen.training.lora import lora
    from flaxen.training.loss import next_token
    from flaxen.training.optimizer import (
        OptimizerConfig,
        ScheduleConfig,
        make_optimizer,
        make_schedule,
    )
    from flaxen.training.step import make_step, start
    from flaxen.weights.checkpoint import open_checkpoint

    use_compile_cache(Path(args["compile_cache"]))
    checkpoint = open_checkpoint(Path(model))
    backend = choose_backend()
    network = checkpoint.model.on(backend)
    frozen = checkpoint.load_params(jnp.dtype(args["dtype"]), backend=backend)
    config = LoraConfig(rank=args["rank"], alpha=args["alpha"])
    optimizer = OptimizerConfig(learning_rate=args["learning_rate"])
    step = make_step(
        lora(config),
        next_token(network),
        make_optimizer(optimizer),
        make_schedule(ScheduleConfig(name="constant"), 1),
        [optimizer.learning_rate],
    )
    adapters = {
        "layers": tuple(
            {
                name: {
                    "a": jnp.asarray(draw_a(i, name, *shapes["a"])[None]),
                    "b": jnp.zeros((1, *shapes["b"])),
                }
                for name, shapes in layer.items()
            }
            for i, layer in enumerate(adapter_shapes(network, config)["layers"])
        )
    }
    state = start(step, adapters, seed=0)

    def run(steps: list[list[list[int]]]) -> tuple[float, list[float]]:
        nonlocal state
        losses: list[float] = []

        def keep(metrics: TrainMetrics) -> None:
            losses.append(float(metrics.values["loss"][0]))

        start_s = time.perf_counter()
        state = train(
            *(step, state, frozen, _Rows(steps)),
            num_steps=int(state.step) + len(steps),
            callbacks=Callbacks(on_metrics=keep),
        )
        jax.block_until_ready(state.params)
        return time.perf_counter() - start_s, losses

    return run, {"flaxen": flaxen.__version__, "jax": jax.__version__}


class _Rows:
    """Batches of rows that are one segment each: every token but a row's last has a target."""

    def __init__(self, steps: list[list[list[int]]]) -> None:
        self._steps = iter(steps)
        self._num_given = 0

    def __next__(self) -> Any:
        from flaxen.data.batch import Batch

        tokens = np.array(next(self._steps), np.int32)
        targets = np.roll(tokens, -1, axis=1)
        targets[:, -1] = -1
        self._num_given += 1
        return Batch(
            tokens=tokens,
            targets=targets,
            loss_weights=(targets >= 0).astype(np.float32),
            segment_ids=np.ones_like(tokens),
            positions=np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape),
        )

    def state(self) -> int:
        """How many batches were given."""
        return self._num_given


if __name__ == "__main__":
    answer_training(load)
