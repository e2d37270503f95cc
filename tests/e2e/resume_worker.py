"""A training process to kill: python -m tests.e2e.resume_worker DATA CHECKPOINTS CACHE RESULT.

Pre-trains the tiny model with all that a run has: shuffled data, the C++ kernels where they were
built, dropout-free bfloat16 compute, accumulation, AdamW, checkpoints. Prints each step's number.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.build import use_compile_cache
from flaxen.data.config import DataConfig
from flaxen.data.iterate import open_data
from flaxen.kernels import native
from flaxen.train.full import full, initial_params
from flaxen.train.loop import Calls, Metrics, train
from flaxen.train.loss import next_token
from flaxen.train.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer, make_schedule
from flaxen.train.state import TrainState
from flaxen.train.step import make_step, start
from flaxen.weights.train_checkpoint import Checkpoints
from tests.data.tiny_text import TOKENIZER
from tests.engine.tiny import MODEL

NUM_STEPS = 80


def main(data: Path, directory: Path, cache: Path, result: Path) -> None:
    use_compile_cache(cache)
    config = DataConfig(
        files=(data,), batch_size=2, sequence_length=32, epochs=None, seed=3, format="text"
    )
    step = make_step(
        full(dtype=jnp.dtype("bfloat16"), packed=native.is_enabled()),
        next_token(MODEL),
        make_optimizer(OptimizerConfig(name="adamw")),
        make_schedule(ScheduleConfig(name="cosine"), NUM_STEPS),
        (1e-2,),
    )
    state = start(step, initial_params(MODEL, 0), seed=7)
    batches = open_data(config, TOKENIZER)
    with Checkpoints(directory, keep=2) as checkpoints:
        if checkpoints.steps():
            restored = checkpoints.restore(state)
            state = restored.tree._replace(data_state=restored.extra)
            batches.restore(restored.extra)

        def save(state: TrainState, compute: object) -> None:
            tree = state._replace(data_state=None)
            checkpoints.save(int(state.step), tree, state.data_state)

        def say(metrics: Metrics) -> None:
            print(f"step {metrics.step}", flush=True)

        calls = Calls(on_metrics=say, on_step=save)
        state = train(
            step, state, None, batches, num_steps=NUM_STEPS, num_microbatches=2, calls=calls
        )
    leaves, _ = jax.tree.flatten_with_path((state.params, state.opt_state, state.step))
    np.savez(result, **{jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves})
    print("done", flush=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
