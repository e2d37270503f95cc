"""Latent attention beside full attention with the same heads: bytes in the pool, and decode speed.

The sizes are DeepSeek V2 Lite's: 16 heads, keys of 192 numbers, values of 128; latents of 576. The
latent's time has the products that make its queries and results (kernels/head_linear), which full
attention does in its linear layers. The two run in turns, and the least time of each counts, since
others may use the machine.

    python benchmarks/latent.py [--seqs 1] [--context 2048] [--isa avx2] [--write]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from report import report

from flaxen.attention_kernels.paged_attention import empty_cache, paged_attention
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.kernels.head_linear import head_linear
from flaxen.kernels.paged_batch import PagedBatch

DTYPE = jnp.dtype("bfloat16")
PAGE_SIZE = 16
NUM_HEADS, NOPE, ROPE, VALUE, RANK = 16, 128, 64, 128, 512
SECONDS = 5.0  # for each of the two
NUM_LAYERS = 4  # so that a layer's pages are not in the caches from its last turn


class Case(NamedTuple):
    """How a layer attends, and what it keeps."""

    name: str
    num_kv_heads: int
    head_dim: int
    value_dim: int  # in the pages

    @property
    def bytes_per_token(self) -> int:
        return self.num_kv_heads * (self.head_dim + self.value_dim) * DTYPE.itemsize


FULL = Case("full attention", NUM_HEADS, NOPE + ROPE, VALUE)
LATENT = Case("latent attention", 1, RANK + ROPE, 0)


def make_run(case: Case, num_seqs: int, context: int) -> Callable[[], float]:
    """A function that decodes one token of each sequence, and returns the seconds of a layer."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), DTYPE)

    pages = -(-context // PAGE_SIZE)
    table = rng.permutation(num_seqs * pages).reshape(num_seqs, pages)
    batch = PagedBatch(
        jnp.full(num_seqs, context, jnp.int32),
        jnp.asarray(table, jnp.int32),
        jnp.arange(num_seqs + 1, dtype=jnp.int32),
    )
    caches = [
        jax.tree.map(
            lambda x: jnp.full_like(x, 0.5),
            empty_cache(
                *(num_seqs * pages, PAGE_SIZE, case.num_kv_heads, case.head_dim, DTYPE),
                value_dim=case.value_dim,
                backend=Backend.CPU,
            ),
        )
        for _ in range(NUM_LAYERS)
    ]
    q, k = (
        normal(num_seqs, NUM_HEADS, NOPE + ROPE),
        normal(num_seqs, case.num_kv_heads, case.head_dim),
    )
    v = normal(num_seqs, NUM_HEADS, VALUE) if case.value_dim else None
    weights = normal(NUM_HEADS, NOPE, RANK), normal(NUM_HEADS, RANK, VALUE)

    def layer(q: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
        if v is not None:
            return paged_attention(q, k, v, cache, batch, backend=Backend.CPU)
        absorbed = head_linear(q[..., :NOPE], weights[0], backend=Backend.CPU)
        wide = jnp.concatenate([absorbed, q[..., NOPE:]], axis=-1)
        out, cache = paged_attention(
            *(wide, k, None, cache, batch), value_dim=RANK, backend=Backend.CPU
        )
        return head_linear(out, weights[1], backend=Backend.CPU), cache

    def layers(caches: list[Any], q: jax.Array) -> tuple[list[Any], jax.Array]:
        new = []
        for cache in caches:
            out, cache = layer(q, cache)
            q = q + 0.001 * jnp.pad(out, ((0, 0), (0, 0), (0, ROPE)))
            new.append(cache)
        return new, q

    step = jax.jit(layers, donate_argnums=0)

    def run() -> float:
        nonlocal caches
        start = time.perf_counter()
        caches, out = step(caches, q)
        out.block_until_ready()
        return (time.perf_counter() - start) / NUM_LAYERS

    run()
    return run


def main() -> None:
    """Prints a table; the last line is JSON, which --write keeps in the repository."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seqs", type=int, default=1)
    parser.add_argument("--context", type=int, default=2048, help="tokens of each sequence")
    parser.add_argument("--isa", choices=cpu_library.ISAS)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    cpu_library.start(isa=args.isa)
    runs = {case: make_run(case, args.seqs, args.context) for case in (FULL, LATENT)}
    least = dict.fromkeys(runs, float("inf"))
    end = time.monotonic() + SECONDS * len(runs)
    while time.monotonic() < end:
        for case, run in runs.items():
            least[case] = min(least[case], run())
    print(f"{cpu_library.isa()}, {args.seqs} sequences of {args.context} tokens, {DTYPE.name}")
    for case, seconds in least.items():
        per_token = case.bytes_per_token
        rate = args.seqs * args.context * per_token / seconds / 1e9
        print(
            f"{case.name:18}{per_token:7,} bytes a token and layer{seconds * 1e6:10.0f} us a layer"
            f"{rate:7.1f} GB/s of its pages"
        )
    figures = {
        "isa": cpu_library.isa(),
        "num_seqs": args.seqs,
        "context_tokens": args.context,
        "full_bytes_per_token_and_layer": FULL.bytes_per_token,
        "latent_bytes_per_token_and_layer": LATENT.bytes_per_token,
        "bytes_ratio": round(FULL.bytes_per_token / LATENT.bytes_per_token, 2),
        "full_us_per_layer": round(least[FULL] * 1e6, 1),
        "latent_us_per_layer": round(least[LATENT] * 1e6, 1),
        "speed_ratio": round(least[FULL] / least[LATENT], 2),
    }
    print(
        f"bytes {figures['bytes_ratio']:.1f} x fewer, decode {figures['speed_ratio']:.2f} x as fast"
    )
    report("latent", figures, write=args.write)


if __name__ == "__main__":
    main()
