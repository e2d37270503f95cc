"""The part that measures LoRA training of the 1B shape: tokens a second, and MFU."""

from __future__ import annotations

import argparse
import json
import time

import jax
import numpy as np

from flaxen.data.batch import Batch
from flaxen.models.adapters import LoraConfig
from flaxen.training.lora import initial_adapters, lora
from flaxen.training.loss import next_token
from flaxen.training.metrics import flops_per_token
from flaxen.training.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer, make_schedule
from flaxen.training.step import make_step, run_step, start

from .figures import rounded, say
from .subjects import find_backend, make_model, random_params

_NUM_STEPS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--limits", default="{}", help="JSON of the part `limits`")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    num_rows, num_tokens = (2, 32) if args.tiny else (4, 2048)
    model = make_model("tiny" if args.tiny else "1b").on(find_backend(args.backend))
    config = LoraConfig(rank=16)
    trainable = lora(config)
    step = make_step(
        trainable,
        next_token(model, remat="layer"),
        make_optimizer(OptimizerConfig()),
        make_schedule(ScheduleConfig(name="constant"), 100),
        (1e-3,),
    )
    frozen = random_params(model, "bfloat16")
    state = start(step, initial_adapters(model, config, [0]), seed=0)
    compute = step.prepare(state.params)
    batch = random_batch(num_rows, num_tokens, model.vocab_size)
    start_s = time.perf_counter()
    losses = []
    for number in range(1 + _NUM_STEPS):
        state, compute, metrics = run_step(step, state, compute, frozen, [batch])
        losses.append(metrics.values["loss"])
        if number == 0:  # it compiles
            jax.block_until_ready(compute)
            say("first_step_s", round(time.perf_counter() - start_s, 1))
            start_s = time.perf_counter()
    jax.block_until_ready(compute)
    tok_s = _NUM_STEPS * num_rows * num_tokens / (time.perf_counter() - start_s)
    flops = flops_per_token(model, trainable) * tok_s
    found = {"tok_s": tok_s, "flops": flops, "first_loss": float(losses[0][0])}
    found["last_loss"] = float(losses[-1][0])
    limits = json.loads(args.limits)
    if "matmul_flops" in limits:
        found["mfu"] = flops / limits["matmul_flops"]
    say("lora", rounded(found))


def random_batch(num_rows: int, num_tokens: int, vocab_size: int) -> Batch:
    """Rows of one segment each, every token of which is a target."""
    ids = np.random.default_rng(0).integers(3, vocab_size, (num_rows, num_tokens + 1))
    shape = (num_rows, num_tokens)
    return Batch(
        tokens=ids[:, :-1].astype(np.int32),
        targets=ids[:, 1:].astype(np.int32),
        loss_weights=np.ones(shape, np.float32),
        segment_ids=np.ones(shape, np.int32),
        positions=np.broadcast_to(np.arange(num_tokens, dtype=np.int32), shape),
    )


if __name__ == "__main__":
    main()
