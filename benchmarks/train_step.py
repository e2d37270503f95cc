"""A LoRA training step's forward and backward: tokens/s, and its share of the cores' peak.

The layers of a model alone, then with the loss, on random tokens: what `train` does without the
optimizer. Shapes are run in turn and the least time counts, since others may use the machine.

    python benchmarks/train_step.py MODEL [--trace DIR] [--write]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from report import report

from flaxen.benchmark.limits import measure_limits
from flaxen.kernels.choice import choose_backend
from flaxen.models import attention_impls
from flaxen.models.adapters import LORA_TARGETS, Adapters, LoraConfig, adapter_shapes, with_adapters
from flaxen.models.model import Model, Params, logprobs
from flaxen.weights.checkpoint import open_checkpoint

SHAPES = ((1, 1024), (4, 256))  # B, T
CHUNK = 256  # tokens whose logits are held at once
SECONDS = 20.0  # for all shapes


def random_adapters(model: Model, rank: int) -> Adapters:
    """One adapter of all targets, as a stack; b is not zero, so that every gradient is computed."""
    rng = np.random.default_rng(0)
    shapes = adapter_shapes(model, LoraConfig(rank=rank, targets=LORA_TARGETS))
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.standard_normal((1, *shape)) * 0.01, jnp.float32),
        shapes,
        is_leaf=lambda leaf: isinstance(leaf, tuple) and all(isinstance(n, int) for n in leaf),
    )


def loss(
    model: Model, params: Params, adapters: Adapters, tokens: jax.Array, with_unembed: bool
) -> jax.Array:
    """The mean of -logprob of the next tokens; or of the hidden states, for the layers alone."""
    B, T = tokens.shape
    adapted = with_adapters(params, adapters, jnp.ones(1), jnp.zeros((B, T), jnp.int32))
    positions = jnp.broadcast_to(jnp.arange(T)[None], (B, T))
    layers = attention_impls.causal(jnp.ones((B, T), jnp.int32), model.backend)
    hidden, _ = model.forward(adapted, tokens, positions, layers, (None,) * len(model.cache_specs))
    if not with_unembed:
        return jnp.mean(hidden.astype(jnp.float32) ** 2)
    rows, targets = hidden.reshape(-1, CHUNK, hidden.shape[-1]), jnp.roll(tokens, -1, axis=1)

    @jax.checkpoint
    def chunk(rows: jax.Array, targets: jax.Array) -> jax.Array:
        found = logprobs(model.unembed(params, rows), model.backend)
        return -jnp.sum(jnp.take_along_axis(found, targets[:, None], axis=1))

    losses = [chunk(*each) for each in zip(rows, targets.reshape(-1, CHUNK), strict=True)]
    return sum(losses, jnp.zeros(())) / tokens.size


def compile_runs(model: Model, params: Params, rank: int) -> dict[str, Any]:
    """Forward alone, and with the gradient, of layers and of all, for each shape."""
    adapters = random_adapters(model, rank)
    rng = np.random.default_rng(1)
    runs: dict[str, Any] = {}
    for B, T in SHAPES:
        tokens = jnp.asarray(rng.integers(3, model.vocab_size, (B, T)), jnp.int32)
        for name, unembed in (("layers", False), ("all", True)):

            def value(
                params: Params, adapters: Adapters, tokens: Any, unembed: bool = unembed
            ) -> Any:
                return loss(model, params, adapters, tokens, unembed)

            for kind, function in (
                ("forward", value),
                ("forward+backward", jax.value_and_grad(value, argnums=1)),
            ):
                compiled = jax.jit(function).lower(params, adapters, tokens).compile()
                args = (params, adapters, tokens)
                runs[f"{B}x{T} {name} {kind}"] = lambda c=compiled, a=args: jax.block_until_ready(
                    c(*a)
                )
    return runs


def num_weights(model: Model, with_unembed: bool) -> int:
    """The number of elements of the layers' matrices, and of the unembedding."""
    sizes = [
        np.prod(spec.shape) for layer in model.param_specs["layers"] for spec in layer.values()
    ]
    unembedding = np.prod(model.param_specs["embed"].shape) if with_unembed else 0
    return int(sum(sizes) + unembedding)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--trace", type=Path, help="write a jax.profiler trace of one run of each")
    parser.add_argument("--write", action="store_true", help="write results/train_step.json")
    args = parser.parse_args()
    checkpoint = open_checkpoint(args.model)
    backend = choose_backend()
    model = checkpoint.model.on(backend)
    params = checkpoint.load_params(jnp.dtype(args.dtype), backend=backend)
    runs = compile_runs(model, params, args.rank)
    if args.trace is not None:
        with jax.profiler.trace(str(args.trace)):
            for run in runs.values():
                run()
    best = dict.fromkeys(runs, float("inf"))
    start = time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - began)
    peak = measure_limits("float32", backend).matmul_flops["float32"]
    rows = []
    for name, seconds in best.items():
        tokens = int(np.prod([int(n) for n in name.split()[0].split("x")]))
        factor = 4 if name.endswith("backward") else 2
        flops = factor * num_weights(model, " all " in name) * tokens
        rows.append(
            {
                "run": name,
                "tokens_s": round(tokens / seconds, 1),
                "share_of_float32_products": round(flops / seconds / peak, 3),
            }
        )
        print(f"{name:32} {rows[-1]['tokens_s']:8} tokens/s  {flops / seconds / peak:6.1%}")
    report(
        "train_step", {"model": checkpoint.name, "rank": args.rank, "runs": rows}, write=args.write
    )


if __name__ == "__main__":
    main()
