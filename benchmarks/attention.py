"""Paged attention by the C++ kernel and by XLA, as shares of the machine's limits.

Each run goes over the caches of several layers, as a step does, after the CPU's caches were filled
with something else. The two are run in turn, and the least time counts, since others may use the
machine.

    python benchmarks/attention.py [--write] [--only decode|prefill]
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from report import report

from flaxen.attention_kernels.paged_attention import empty_cache, paged_attention
from flaxen.benchmark.limits import measure_limits
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.kernels.paged_batch import PagedBatch

HEADS = {"SmolLM2-135M": (9, 3, 64), "Llama-1B": (32, 8, 64)}  # N, K, H
PAGE_SIZE = 16
DTYPE = jnp.dtype("bfloat16")
MAX_LAYERS, CACHE_BYTES = 16, 128 << 20  # of one run; the bytes are approximate
SECONDS = 3.0  # for each figure


@dataclass(frozen=True, kw_only=True)
class Case:
    """S sequences that each compute the last `num_new` of `context` tokens."""

    model: str
    num_seqs: int
    num_new: int
    context: int

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values that a layer reads."""
        _, K, H = HEADS[self.model]
        return self.num_seqs * self.context * 2 * K * H * DTYPE.itemsize

    @property
    def num_operations(self) -> int:
        """Floating-point operations of a layer: each token's products with the keys and values that
        it attends to.
        """
        N, _, H = HEADS[self.model]
        seen = self.num_new * self.context - self.num_new * (self.num_new - 1) // 2
        return 4 * self.num_seqs * seen * N * H


CASES = {
    "decode": [
        Case(model=model, num_seqs=num_seqs, num_new=1, context=context)
        for model in HEADS
        for num_seqs in (1, 16, 64)
        for context in (256, 1024)
    ],
    "prefill": [
        Case(model=model, num_seqs=1, num_new=length, context=length)
        for model in HEADS
        for length in (256, 1024)
    ],
}


def make_run(case: Case, *, backend: Backend) -> tuple[Callable[[], float], int]:
    """A function that runs all layers once and returns the seconds of one; and how many."""
    N, K, H = HEADS[case.model]
    num_layers = min(MAX_LAYERS, max(1, CACHE_BYTES // case.kv_bytes))
    pages_each = -(-case.context // PAGE_SIZE)
    rng = np.random.default_rng(0)
    num_pages = case.num_seqs * pages_each
    table = rng.permutation(num_pages).reshape(case.num_seqs, pages_each)
    batch = PagedBatch(
        jnp.full(case.num_seqs, case.context, jnp.int32),
        jnp.asarray(table, jnp.int32),
        jnp.arange(case.num_seqs + 1, dtype=jnp.int32) * case.num_new,
    )
    num_tokens = case.num_seqs * case.num_new
    q, k, v = (
        jnp.asarray(rng.standard_normal((num_tokens, heads, H)), DTYPE) for heads in (N, K, K)
    )
    caches = [
        jax.tree.map(
            lambda x: jnp.full_like(x, 0.5),
            empty_cache(num_pages, PAGE_SIZE, K, H, DTYPE, backend=backend),
        )
        for _ in range(num_layers)
    ]
    layer = jax.jit(functools.partial(paged_attention, backend=backend))

    def layers(caches: list[Any], q: jax.Array) -> tuple[list[Any], jax.Array]:
        new = []
        for cache in caches:
            out, cache = layer(q, k, v, cache, batch)
            q = q + out * 0.001
            new.append(cache)
        return new, q

    step = jax.jit(layers, donate_argnums=0)
    other = np.ones(64 << 20, np.uint8)

    def run() -> float:
        nonlocal caches
        other.sum()
        start = time.perf_counter()
        caches, out = step(caches, q)
        out.block_until_ready()
        return (time.perf_counter() - start) / num_layers

    run()
    return run, num_layers


def main() -> None:
    """Prints a table; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep it in benchmarks/results/")
    parser.add_argument("--only", choices=sorted(CASES))
    parser.add_argument("--isa", choices=cpu_library.ISAS)
    args = parser.parse_args()
    cpu_library.start(isa=args.isa)
    limits = measure_limits(str(DTYPE), Backend.CPU)
    peak = limits.matmul_flops["float32"]
    machine = f"{limits.read_bytes_s / 1e9:.1f} GB/s, {peak / 1e9:.0f} GFLOP/s float32"
    print(f"{machine}; {cpu_library.isa()}")
    print(f"{'':44}{'us/layer':>10}{'GB/s':>8}{'share':>7}{'GFLOP/s':>9}{'share':>7}{'XLA us':>10}")
    figures = []
    for kind in [args.only] if args.only else CASES:
        for case in CASES[kind]:
            runs = [make_run(case, backend=each)[0] for each in (Backend.CPU, Backend.REFERENCE)]
            least = [float("inf")] * 2
            end = time.perf_counter() + SECONDS
            while time.perf_counter() < end:
                for i, run in enumerate(runs):
                    least[i] = min(least[i], run())
            own, xla = least
            rate, flops = case.kv_bytes / own, case.num_operations / own
            name = f"{kind} {case.model} S={case.num_seqs} context={case.context}"
            print(
                f"{name:44}{own * 1e6:10.1f}{rate / 1e9:8.1f}{rate / limits.read_bytes_s:7.0%}"
                f"{flops / 1e9:9.1f}{flops / peak:7.0%}{xla * 1e6:10.1f}",
                flush=True,
            )
            figures.append(
                {
                    "workload": name,
                    "seconds": own,
                    "share_of_bandwidth": rate / limits.read_bytes_s,
                    "share_of_float32_peak": flops / peak,
                    "xla_seconds": xla,
                }
            )
    report(
        "attention",
        {"isa": cpu_library.isa(), "read_bytes_s": limits.read_bytes_s, "float32_flops": peak,
         "layers": figures},
        write=args.write,
    )  # fmt: skip


if __name__ == "__main__":
    main()
