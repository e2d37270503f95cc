"""The part that compares the device's kernels with their references, in bfloat16.

A figure is the largest difference over all cases, and the share of a case's largest value that it
may be.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.attention_kernels.causal_attention import causal_attention
from flaxen.attention_kernels.paged_attention import empty_cache, paged_attention
from flaxen.kernels.backend import Backend
from flaxen.kernels.linear import linear
from flaxen.kernels.linear.quantized import QuantizedLinear, unpack
from flaxen.kernels.paged_batch import PagedBatch

from .figures import say
from .subjects import find_backend

_TOLERANCE = 2e-2  # bfloat16 keeps 8 bits: sums of rounded products differ by a few of the last
_PAGE_SIZE = 16

# New tokens and all tokens of each sequence.
_BATCHES = {
    "decode": [(1, 7), (1, 130), (1, 1), (1, 1000)],
    "mixed": [(5, 5), (1, 130), (8, 140), (64, 64), (33, 500)],
}
_HEADS = [(32, 8, 64), (32, 8, 128), (8, 1, 128), (9, 3, 64), (8, 2, 256)]  # N, K, H
_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"window": 50},
    "softcap": {"softcap": 30.0, "scale": 0.2},
}
_TINY = ("mixed", (4, 2, 64), "window")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    backend = find_backend(args.backend)
    checks = {"paged_attention": _paged, "causal_attention": _causal, "linear": _linear}
    checks["quantized_linear"] = _quantized
    for name, check in checks.items():
        errors = dict(check(backend, args.tiny))
        worst = max(errors, key=lambda case: errors[case])
        say(
            name,
            {
                "num_cases": len(errors),
                "worst": worst,
                "relative_error": round(errors[worst], 5),
                "is_right": bool(errors[worst] <= _TOLERANCE),
            },
        )


def _paged(backend: Backend, tiny: bool) -> Iterator[tuple[str, float]]:
    cases = itertools.product(_BATCHES, _HEADS, _OPTIONS)
    for name, heads, option in [_TINY] if tiny else cases:
        lengths, options = _BATCHES[name], _OPTIONS[option]
        batch, num_pages = _batch(lengths)
        arrays = _queries(sum(new for new, _ in lengths), heads)
        found = [
            _attend(arrays, heads, num_pages, batch, options, each)
            for each in (backend, Backend.REFERENCE)
        ]
        yield f"{name} {heads} {option}", _difference(*found)


def _attend(
    arrays: tuple[jax.Array, ...],
    heads: tuple[int, int, int],
    num_pages: int,
    batch: PagedBatch,
    options: dict[str, Any],
    backend: Backend,
) -> jax.Array:
    """Writes all earlier tokens' keys and values in a first step, and attends in a second."""
    _, num_kv_heads, head_dim = heads
    cache = empty_cache(
        num_pages, _PAGE_SIZE, num_kv_heads, head_dim, jnp.dtype("bfloat16"), backend=backend
    )
    past = np.asarray(batch.kv_lens) - np.diff(batch.cu_q_lens)
    starts = jnp.asarray([0, *np.cumsum(past)], jnp.int32)
    before = PagedBatch(jnp.asarray(past, jnp.int32), batch.page_table, starts)
    run = jax.jit(
        lambda *args: paged_attention(*args, **options, backend=backend), donate_argnums=3
    )
    if past.sum():
        _, cache = run(*_queries(int(past.sum()), heads, seed=1), cache, before)
    out: jax.Array = run(*arrays, cache, batch)[0]
    return out


def _batch(lengths: list[tuple[int, int]]) -> tuple[PagedBatch, int]:
    """Sequences over shuffled pages."""
    counts = [-(-length // _PAGE_SIZE) for _, length in lengths]
    pages = np.random.default_rng(0).permutation(sum(counts))
    table = np.zeros((len(lengths), max(counts)), np.int32)
    for row, (count, end) in enumerate(zip(counts, np.cumsum(counts), strict=True)):
        table[row, :count] = pages[end - count : end]
    starts = [0, *np.cumsum([new for new, _ in lengths])]
    lens = [length for _, length in lengths]
    return PagedBatch(
        jnp.asarray(lens, jnp.int32), jnp.asarray(table), jnp.asarray(starts, jnp.int32)
    ), sum(counts)


def _queries(num_tokens: int, heads: tuple[int, int, int], seed: int = 0) -> tuple[jax.Array, ...]:
    num_heads, num_kv_heads, head_dim = heads
    keys = jax.random.split(jax.random.key(seed), 3)
    nums = (num_heads, num_kv_heads, num_kv_heads)
    return tuple(
        jax.random.normal(key, (num_tokens, num, head_dim), jnp.bfloat16)
        for key, num in zip(keys, nums, strict=True)
    )


def _causal(backend: Backend, tiny: bool) -> Iterator[tuple[str, float]]:
    for heads in [_TINY[1]] if tiny else _HEADS:
        arrays = [each[None] for each in _queries(64 if tiny else 512, heads)]
        found = [
            jax.jit(lambda *args, b=each: causal_attention(*args, backend=b))(*arrays)
            for each in (backend, Backend.REFERENCE)
        ]
        yield str(heads), _difference(*found)


def _linear(backend: Backend, tiny: bool) -> Iterator[tuple[str, float]]:
    sizes = [(4, 128, 256)] if tiny else [(1, 4096, 4096), (64, 4096, 14_336), (512, 2048, 8192)]
    for num_tokens, num_inputs, num_outputs in sizes:
        x, weight = (
            jax.random.normal(jax.random.key(seed), shape, jnp.bfloat16)
            for seed, shape in enumerate([(num_tokens, num_inputs), (num_inputs, num_outputs)])
        )
        exact = jnp.einsum(
            "ti,io->to", x.astype(jnp.float32), weight.astype(jnp.float32), precision="highest"
        )
        found = jax.jit(lambda x, w: linear(x, w, backend=backend))(x, weight)
        yield f"{num_tokens}x{num_inputs}x{num_outputs}", _difference(found, exact)


def _quantized(backend: Backend, tiny: bool) -> Iterator[tuple[str, float]]:
    """Weights of eight bits with a scale for each output, and of four in groups of 32."""
    sizes = [(4, 128, 256)] if tiny else [(1, 4096, 4096), (64, 4096, 14_336), (512, 2048, 8192)]
    for num_tokens, num_inputs, num_outputs in sizes:
        for dtype, num_groups in ((jnp.int8, 1), (jnp.int4, num_inputs // 32)):
            keys = jax.random.split(jax.random.key(num_tokens), 4)
            x = jax.random.normal(keys[0], (num_tokens, num_inputs), jnp.bfloat16)
            limit = 127 if dtype == jnp.int8 else 7
            data = jax.random.randint(keys[1], (num_inputs, num_outputs), -limit, limit + 1)
            shape = (num_groups, num_outputs)
            weight = QuantizedLinear(
                data=data.astype(dtype),
                scales=jax.random.uniform(keys[2], shape, jnp.float32, 0.01, 0.02),
                mins=None if num_groups == 1 else jax.random.normal(keys[3], shape) * 0.01,
            )
            exact = jnp.einsum(
                "ti,io->to", x.astype(jnp.float32), unpack(weight), precision="highest"
            )
            found = jax.jit(lambda x, w: linear(x, w, backend=backend))(x, weight)
            name = f"{num_tokens}x{num_inputs}x{num_outputs} {jnp.dtype(dtype).name}"
            yield name, _difference(found, exact)


def _difference(found: jax.Array, expected: jax.Array) -> float:
    """The largest difference, as a share of the largest value; infinite if there is a NaN."""
    one, other = (np.asarray(each, np.float32) for each in (found, expected))
    error = float(np.max(np.abs(one - other)) / np.max(np.abs(other)))
    return error if np.isfinite(error) else float("inf")


if __name__ == "__main__":
    main()
